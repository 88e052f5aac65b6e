// Draws the page's charts: figures from #figures, points from #points, colours from the page's style.
// Live samples are merged into the last bucket; every minute and after a pause the exact history is fetched.
import { exactClock, formats, write } from './fmt.js';
import { onReturn, subscribe } from './live.js';

const CONFIG = {
  displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: 'reset', showTips: false,
};
const MOST_POINTS = 300;
const EXACT_EVERY_MS = 60_000;
const SUMMED = new Set(['requests', 'failed']);
const AVERAGED = new Set(['tokens_per_s', 'prompt_tokens_per_s']);
const IS_LATENCY = /_p\d+_s$/;

const stores = new Map(); // topic -> { resolution_s, window_s, points, merged }
const charts = []; // { element, figure, topic, dirty, mounted }
const onScreen = new WeakSet();
const reducedMotion = matchMedia('(prefers-reduced-motion: reduce)').matches;

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) onScreen.add(entry.target);
    else onScreen.delete(entry.target);
  }
  scheduleDraw();
}, { rootMargin: '160px' });

function readJson(id) {
  const block = document.getElementById(id);
  return block ? JSON.parse(block.textContent) : {};
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// --- points ---------------------------------------------------------------------------------------------

function keepHistory(topic, history) {
  stores.set(topic, {
    resolution_s: history.resolution_s || 1,
    window_s: (history.to ?? 0) - (history.from ?? 0) || 900,
    points: history.points ?? [],
    merged: 1,
  });
}

function addSample(topic, sample) {
  const store = stores.get(topic);
  if (!store) return;
  const last = store.points.at(-1);
  const start = Math.floor(sample.t / store.resolution_s) * store.resolution_s;
  if (last && start <= last.t) {
    mergeInto(last, sample, store);
  } else {
    store.points.push({ ...sample, t: start });
    store.merged = 1;
    while (store.points.length > MOST_POINTS) store.points.shift();
  }
  for (const chart of charts) if (chart.topics.has(topic)) chart.dirty = true;
}

// Within a bucket: the worst latency, sums of counts, means of rates, else the newest value. A percentile is
// never averaged; the exact one comes with the next fetch.
function mergeInto(point, sample, store) {
  for (const [field, value] of Object.entries(sample)) {
    if (field === 't' || value === null) continue;
    const had = point[field];
    if (had === null || had === undefined) point[field] = value;
    else if (IS_LATENCY.test(field)) point[field] = Math.max(had, value);
    else if (SUMMED.has(field)) point[field] = had + value;
    else if (AVERAGED.has(field)) point[field] = had + (value - had) / (store.merged + 1);
    else point[field] = value;
  }
  store.merged += 1;
}

async function fetchExact() {
  const page = document.querySelector('[data-points-url]');
  if (!page || document.hidden) return;
  try {
    const response = await fetch(page.dataset.pointsUrl, { headers: { Accept: 'application/json' } });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    for (const [topic, history] of Object.entries(await response.json())) keepHistory(topic, history);
    for (const chart of charts) chart.dirty = true;
    scheduleDraw();
  } catch (error) {
    console.info('The history could not be fetched; live values go on.', error.message);
  }
}

// --- drawing --------------------------------------------------------------------------------------------

const minutesOf = (t) => (t - new Date(t * 1000).getTimezoneOffset() * 60) * 1000;

function transparent(colour, share) {
  const bits = Number.parseInt(colour.slice(1), 16);
  return `rgba(${bits >> 16},${(bits >> 8) & 255},${bits & 255},${share})`;
}

// How a role is drawn: line width, strength of the line, strength of the surface below it (0 for none).
const ROLES = {
  p50: { width: 1.25, line: 0.75, surface: 0 },
  p95: { width: 1.75, line: 1, surface: 0.12 },
  p99: { width: 1, line: 0.7, surface: 0, dash: 'dot' },
  line: { width: 1.5, line: 1, surface: 0 },
  area: { width: 1.5, line: 1, surface: 0.14 },
  stack: { width: 1, line: 1, surface: 0.55 },
  step: { width: 1.5, line: 1, surface: 0.14, shape: 'hv' },
};

const missing = (value) => value === null || value === undefined;

function tracesOf(figure, topic) {
  const lines = [];
  const surfaces = [];
  let below = null; // upper edges of the stack, or the p50 under the p95
  for (const trace of figure.data) {
    const { field, role, colour, scale, topic: own } = trace.meta;
    const points = stores.get(own || topic)?.points ?? [];
    const x = points.map((point) => minutesOf(point.t));
    const values = points.map((point) => (missing(point[field]) ? null : point[field] * scale));
    const stacked = role === 'stack' && below;
    const y = values.map((value, i) => (value === null ? null : value + (stacked ? below[i] ?? 0 : 0)));
    const paint = css(`--${colour}`) || css('--text-3');
    // In a stack a line of nothing would lie on the line below it and hide it.
    const edge = stacked ? y.map((value, i) => (values[i] === 0 ? null : value)) : y;
    lines.push(lineOf(trace, { x, y: edge, values, paint, role }));
    const floor = role === 'stack' || role === 'p95' ? below ?? [] : [];
    if (ROLES[role].surface) surfaces.push(surfaceOf({ x, y, floor, paint, role }));
    below = y;
  }
  return [...surfaces, ...lines];
}

function lineOf(trace, { x, y, values, paint, role }) {
  const { width, line, shape, dash } = ROLES[role];
  const drawn = {
    ...trace,
    x,
    y,
    customdata: values,
    hovertemplate: trace.hovertemplate.replace('%{y', '%{customdata'),
    line: { color: transparent(paint, line), width, shape, dash },
  };
  // A value between two gaps has no line to be seen on, so it gets a dot.
  const alone = y.map((value, i) => value !== null && missing(y[i - 1]) && missing(y[i + 1]));
  if (!alone.some(Boolean)) return drawn;
  const size = role === 'p95' ? 5 : 4;
  return { ...drawn, mode: 'lines+markers', marker: { color: paint, size: alone.map((is) => (is ? size : 0)) } };
}

// The surface between two edges as closed polygons, one per run without a gap: Plotly's own fills reach across
// gaps, and its stacks draw zeros in them.
function surfaceOf({ x, y, floor, paint, role }) {
  const outline = { x: [], y: [] };
  const isStep = role === 'step';
  let begin = 0;
  for (let i = 0; i <= y.length; i += 1) {
    if (i < y.length && y[i] !== null) continue;
    if (i - begin > 1) addPolygon(outline, { x, y, floor, begin, end: i, isStep });
    begin = i + 1;
  }
  return {
    ...outline, type: 'scatter', mode: 'lines', fill: 'toself', hoverinfo: 'skip',
    fillcolor: transparent(paint, ROLES[role].surface), line: { width: 0 },
  };
}

function addPolygon(outline, { x, y, floor, begin, end, isStep }) {
  for (let i = begin; i < end; i += 1) {
    if (isStep && i > begin) {
      outline.x.push(x[i]);
      outline.y.push(y[i - 1]);
    }
    outline.x.push(x[i]);
    outline.y.push(y[i]);
  }
  for (let i = end - 1; i >= begin; i -= 1) {
    outline.x.push(x[i]);
    outline.y.push(floor[i] ?? 0);
  }
  outline.x.push(null);
  outline.y.push(null);
}

// The objective's threshold: a dashed line with its value at the right, always inside the axis.
function sloOf({ slo, sloLabel }) {
  if (!slo) return {};
  const paint = css('--slo');
  return {
    shapes: [{
      type: 'line', xref: 'paper', x0: 0, x1: 1, y0: Number(slo), y1: Number(slo),
      line: { color: paint, width: 1.25, dash: 'dash' },
    }],
    annotations: [{
      xref: 'paper', x: 1, xanchor: 'right', y: Number(slo), yanchor: 'bottom', text: sloLabel,
      showarrow: false, font: { size: 11, color: paint },
    }],
  };
}

function layoutOf(figure, topic, data) {
  const axis = {
    gridcolor: css('--grid'), zeroline: false, linecolor: css('--border-2'), tickcolor: css('--border-2'),
    tickfont: { size: 11, color: css('--text-3') }, fixedrange: true, automargin: false,
  };
  const store = stores.get(topic);
  const end = store?.points.at(-1)?.t;
  const range = end ? [minutesOf(end - store.window_s), minutesOf(end)] : undefined;
  return {
    ...figure.layout,
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false,
    font: { family: 'Inter, system-ui, sans-serif', size: 11, color: css('--text-2') },
    margin: { l: 48, r: 10, t: 8, b: 22 }, hovermode: 'x unified', dragmode: false,
    hoverlabel: {
      bgcolor: css('--surface'), bordercolor: css('--border-2'),
      font: { size: 12, color: css('--text'), family: 'Inter, sans-serif' },
    },
    xaxis: {
      ...axis, type: 'date', range, showgrid: false, ticks: 'outside', ticklen: 4, nticks: 5,
      tickformat: store?.window_s > 86400 ? '%-d %b' : '%H:%M', hoverformat: '%H:%M:%S',
    },
    yaxis: {
      ...axis, nticks: 4, ticks: '', ...figure.layout.yaxis,
      ...(data.slo ? { autorangeoptions: { include: Number(data.slo) * 1.15 } } : {}),
    },
    ...sloOf(data),
    datarevision: Date.now(),
  };
}

function draw(chart) {
  const data = tracesOf(chart.figure, chart.topic);
  const hasValues = data.some((trace) => trace.y.some((value) => value !== null));
  chart.element.parentElement.querySelector('[data-empty]').hidden = hasValues;
  chart.element.classList.toggle('ch-hidden', !hasValues);
  Plotly.react(chart.element, data, layoutOf(chart.figure, chart.topic, chart.element.dataset), CONFIG);
}

let drawing = false;

// One chart per frame; a chart counts as clean when it is queued, so that samples during the draw are not lost.
function scheduleDraw() {
  if (drawing || document.hidden) return;
  const queue = charts.filter((chart) => chart.dirty && onScreen.has(chart.element));
  if (!queue.length) return;
  for (const chart of queue) chart.dirty = false;
  drawing = true;
  const step = () => {
    const chart = queue.shift();
    if (!chart) {
      drawing = false;
      return;
    }
    draw(chart);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

// --- table view -----------------------------------------------------------------------------------------

function showTable(chart) {
  const dialog = document.getElementById('chart-table');
  dialog.querySelector('h2').textContent = chart.element.getAttribute('aria-label').split(':')[0];
  const head = dialog.querySelector('thead tr');
  head.replaceChildren(...['Time', ...chart.figure.data.map((trace) => trace.name)].map((word, i) => {
    const cell = document.createElement('th');
    cell.scope = 'col';
    if (i) cell.className = 'num';
    cell.textContent = word;
    return cell;
  }));
  const rows = (stores.get(chart.topic)?.points ?? []).toReversed().map((point, index, all) => {
    const row = document.createElement('tr');
    const time = document.createElement('td');
    time.textContent = exactClock(new Date(point.t * 1000));
    row.append(time);
    for (const trace of chart.figure.data) {
      const source = trace.meta.topic ? stores.get(trace.meta.topic)?.points.at(all.length - 1 - index) : point;
      const cell = document.createElement('td');
      cell.className = 'num';
      write(cell, formats[chart.element.dataset.format](source?.[trace.meta.field]));
      row.append(cell);
    }
    return row;
  });
  dialog.querySelector('tbody').replaceChildren(...rows);
  dialog.showModal();
}

// --- start ----------------------------------------------------------------------------------------------

function startCharts() {
  const figures = readJson('figures');
  for (const [topic, history] of Object.entries(readJson('points'))) keepHistory(topic, history);
  for (const element of document.querySelectorAll('[data-chart]')) {
    const figure = figures[element.dataset.chart];
    const topic = element.closest('[data-topic]').dataset.topic;
    const topics = new Set([topic, ...figure.data.map((trace) => trace.meta.topic).filter(Boolean)]);
    const chart = { element, figure, topic, topics, dirty: true };
    charts.push(chart);
    observer.observe(element);
    element.closest('figure').querySelector('[data-table]')?.addEventListener('click', () => showTable(chart));
  }
  if (!charts.length) return;
  for (const topic of stores.keys()) subscribe(topic, (sample) => addSample(topic, sample));
  setInterval(scheduleDraw, reducedMotion ? 5000 : 1000);
  setInterval(fetchExact, EXACT_EVERY_MS);
  onReturn(fetchExact);
  document.addEventListener('visibilitychange', scheduleDraw);
  document.addEventListener('raydeck:theme', () => {
    for (const chart of charts) chart.dirty = true;
    scheduleDraw();
  });
}

if (globalThis.Plotly) startCharts();
else addEventListener('load', startCharts);
