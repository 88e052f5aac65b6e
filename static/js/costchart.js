// Draws the spend by day: the figure comes with the page, its colours are those of the page's style.
const CONFIG = {
  displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: 'reset', showTips: false,
};

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layoutOf(figure) {
  const axis = {
    gridcolor: css('--grid'), zeroline: false, linecolor: css('--border-2'), tickcolor: css('--border-2'),
    tickfont: { size: 11, color: css('--text-3') }, fixedrange: true, automargin: false,
  };
  return {
    ...figure.layout,
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false,
    font: { family: 'Inter, system-ui, sans-serif', size: 11, color: css('--text-2') },
    margin: { l: 56, r: 10, t: 8, b: 22 }, hovermode: 'x unified', dragmode: false,
    hoverlabel: {
      bgcolor: css('--surface'), bordercolor: css('--border-2'),
      font: { size: 12, color: css('--text'), family: 'Inter, sans-serif' },
    },
    xaxis: {
      ...axis, type: 'date', showgrid: false, ticks: '', nticks: 8, tickformat: '%-d %b', hoverformat: '%A, %-d %B',
    },
    yaxis: { ...axis, nticks: 4, ticks: '', ...figure.layout.yaxis },
  };
}

function draw(element, figure) {
  const data = figure.data.map((trace) => ({
    ...trace, marker: { color: css(`--${trace.meta.colour}`) || css('--text-3') },
  }));
  Plotly.react(element, data, layoutOf(figure), CONFIG);
}

function start() {
  const element = document.getElementById('cost-chart');
  const figure = JSON.parse(document.getElementById('cost-figure').textContent);
  draw(element, figure);
  document.addEventListener('raydeck:theme', () => draw(element, figure));
}

if (globalThis.Plotly) start();
else addEventListener('load', start);
