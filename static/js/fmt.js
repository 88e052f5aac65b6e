// Number formats; mirrors console/formats.py (tests compare the two). Base units in: seconds, bytes, USD, shares.
const NO_BREAK = '\u00a0';
const MISSING = '–';
const MINUS = '−';
const GIB = 2 ** 30;

function fixed(value, decimals) {
  const text = Math.abs(value).toLocaleString('en-US', {
    minimumFractionDigits: decimals,
    maximumFractionDigits: decimals,
    roundingMode: 'halfEven', // as Python rounds
  });
  return value < 0 && Number(text.replaceAll(',', '')) !== 0 ? MINUS + text : text;
}

function isMissing(value) {
  return value === null || value === undefined || value === '' || !Number.isFinite(Number(value));
}

export function ms(seconds_) {
  if (isMissing(seconds_)) return MISSING;
  const value = Number(seconds_) * 1000;
  if (value < 9.995) return `${fixed(value, 2)}${NO_BREAK}ms`;
  if (value < 99.95) return `${fixed(value, 1)}${NO_BREAK}ms`;
  if (value < 9999.5) return `${fixed(value, 0)}${NO_BREAK}ms`;
  return `${fixed(value / 1000, 1)}${NO_BREAK}s`;
}

export function seconds(value) {
  if (isMissing(value)) return MISSING;
  return `${fixed(Number(value), Number(value) < 0.995 ? 2 : 1)}${NO_BREAK}s`;
}

export function duration(value) {
  if (isMissing(value)) return MISSING;
  let whole = Math.max(0, Math.round(Number(value)));
  if (whole < 1) return Number(value) > 0 ? `<${NO_BREAK}1${NO_BREAK}s` : `0${NO_BREAK}s`;
  const parts = [];
  for (const [size, unit] of [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']]) {
    parts.push([Math.floor(whole / size), unit]);
    whole %= size;
  }
  const first = parts.findIndex(([amount]) => amount > 0);
  return parts
    .slice(first, first + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount}${NO_BREAK}${unit}`)
    .join(' ');
}

export function gib(bytes) {
  if (isMissing(bytes)) return MISSING;
  const value = Number(bytes) / GIB;
  if (value >= 1024) return `${fixed(value / 1024, 2)}${NO_BREAK}TiB`;
  if (value === 0) return `0${NO_BREAK}GiB`;
  if (value >= 0.1) return `${fixed(value, 1)}${NO_BREAK}GiB`;
  const mib = value * 1024;
  if (mib >= 10) return `${fixed(mib, 0)}${NO_BREAK}MiB`;
  if (mib >= 0.1) return `${fixed(mib, 1)}${NO_BREAK}MiB`;
  return `${fixed(mib * 1024, 1)}${NO_BREAK}KiB`;
}

export function usd(amount) {
  if (isMissing(amount)) return MISSING;
  const value = Math.abs(Number(amount));
  const sign = Number(amount) < 0 ? MINUS : '';
  if (value === 0) return '$0.00';
  if (value < 0.000005) return `<${NO_BREAK}$0.00001`;
  if (value < 0.01) return `${sign}$${fixed(value, 5)}`;
  return `${sign}$${fixed(value, value >= 1000 ? 0 : 2)}`;
}

export function rate(perHour) {
  return isMissing(perHour) ? MISSING : `${usd(perHour)}/h`;
}

export function tokens_per_second(value) {
  if (isMissing(value)) return MISSING;
  const amount = Number(value);
  return `${fixed(amount, amount >= 10 || amount === 0 ? 0 : 1)}${NO_BREAK}tok/s`;
}

export function number(value) {
  if (isMissing(value)) return MISSING;
  const amount = Number(value);
  return fixed(amount, Math.abs(amount) >= 10 || amount === Math.round(amount) ? 0 : 1);
}

export function capacity(value) {
  if (isMissing(value)) return MISSING;
  const amount = Number(value);
  if (amount >= 100 || Number.isInteger(amount)) return fixed(Math.floor(amount), 0);
  return fixed(Math.floor(amount * 10) / 10, 1);
}

export function count(value) {
  if (isMissing(value)) return MISSING;
  const amount = Number(value);
  for (const [size, unit] of [[1e12, 'T'], [1e9, 'B'], [1e6, 'M'], [1e3, 'k']]) {
    if (Math.abs(amount) >= size * 0.9995 && (unit !== 'k' || Math.abs(amount) >= 10000)) {
      const scaled = amount / size;
      const decimals = scaled < 10 ? 2 : scaled < 100 ? 1 : 0;
      return `${fixed(scaled, decimals)}${unit === 'k' ? '' : NO_BREAK}${unit}`;
    }
  }
  return fixed(amount, 0);
}

export function percent(share) {
  if (isMissing(share)) return MISSING;
  const value = Number(share) * 100;
  return `${fixed(value, Math.abs(value) > 0 && Math.abs(value) < 9.95 ? 1 : 0)}%`;
}

const clockFormat = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', hour12: false });
const dayFormat = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const exactFormat = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium', hour12: false });

/** Local time of a Date: 14:32 today, 22 Nov 14:32 otherwise. */
export function clock(date, now = new Date()) {
  const sameDay = date.toDateString() === now.toDateString();
  return sameDay ? clockFormat.format(date) : `${dayFormat.format(date)} ${clockFormat.format(date)}`;
}

/** Local time with seconds: 14:31:52. */
export function exactClock(date) {
  return exactFormat.format(date);
}

export const formats = {
  ms, seconds, duration, gib, usd, rate, tokens_per_second, number, capacity, count, percent,
};

/** Writes a formatted value into an element, its unit in the muted colour. */
export function write(element, text) {
  const gap = element.hasAttribute('data-plain') ? -1 : text.lastIndexOf(NO_BREAK);
  if (gap < 0) {
    if (element.textContent !== text) element.textContent = text;
    return;
  }
  const unit = document.createElement('span');
  unit.className = 'dim';
  unit.textContent = text.slice(gap + 1);
  element.replaceChildren(text.slice(0, gap + 1), unit);
}
