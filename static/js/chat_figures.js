// Small pieces for figures under a reply and in the summary beside the chat.
import { ms, usd } from './fmt.js';

export const MISSING_TEXT = '–';

/** <span title>label <b>value</b> unit</span> */
export function figure(label, value, title, unit = '') {
  const span = document.createElement('span');
  span.title = title;
  const strong = document.createElement('b');
  strong.textContent = value;
  span.append(...(label ? [`${label} `] : []), strong, ...(unit ? [`\u00a0${unit}`] : []));
  return span;
}

/** Where a request's time went: the parts of its waterfall, in order (serving/waterfall.py). */
export function split(element, parts) {
  element.hidden = !parts.length;
  element.replaceChildren(...parts.map((part) => {
    const span = document.createElement('span');
    const key = document.createElement('i');
    const strong = document.createElement('b');
    key.className = `key ${part.name}`;
    strong.textContent = ms(part.seconds);
    span.title = `${part.label}: ${part.how}`;
    span.append(key, `${part.label} `, strong);
    return span;
  }));
}

/** Money of one reply: five decimals below a cent. */
export function usdShort(amount) {
  return amount === null || amount === undefined ? MISSING_TEXT : usd(amount);
}

export const isKnown = (value) => value !== null && value !== undefined;

/** What a reply has cost where that is known, else the estimate that it is at most. */
export const costOf = (stats) => (isKnown(stats.allocated_usd) ? stats.allocated_usd : stats.cost_usd);

export function median(values) {
  const known = values.filter((value) => typeof value === 'number').sort((a, b) => a - b);
  if (!known.length) return null;
  const middle = known.length >> 1;
  return known.length % 2 ? known[middle] : (known[middle - 1] + known[middle]) / 2;
}

/** Totals of a chat, from the stats of its answers. */
export function summary(all) {
  const stats = all.filter((one) => typeof one.e2e_s === 'number');
  const priced = stats.filter((one) => isKnown(costOf(one)));
  return {
    ttft: ms(median(stats.map((one) => one.ttft_s))),
    tpot: ms(median(stats.map((one) => one.tpot_s))),
    output: stats.length ? stats.reduce((sum, one) => sum + (one.completion_tokens ?? 0), 0).toLocaleString('en-US')
      : MISSING_TEXT,
    cost: priced.length ? usd(priced.reduce((sum, one) => sum + Number(costOf(one)), 0)) : MISSING_TEXT,
  };
}
