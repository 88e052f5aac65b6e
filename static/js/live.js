// One WebSocket for the page. Markup drives it:
//   data-topic="deployment:demo"            this element (and what is inside it) follows a topic
//   data-live="ttft_p95_s" data-format="ms"  text of a field of the topic's 1 Hz samples; data-keep keeps the
//                                            last measured value for a minute while a sample has none
//   data-on="status events" hx-get="…" hx-trigger="changed"   re-fetched when one of these words changed
// Modules use subscribe(topic, callback) and onReturn(callback). The socket never carries HTML.
import { exactClock, formats, write } from './fmt.js';

const BACKOFF_S = [1, 2, 4, 8, 15];
const HIDDEN_CLOSE_MS = 5 * 60 * 1000;
const SETTLE_MS = 150;
const TOPICS_MAX = 20; // the server follows no more; tables with more rows are re-fetched every few seconds
const CLOSE_LOGIN = 4401;

const followers = new Map(); // topic -> Set of callbacks
const subscribed = new Set();
const returnCallbacks = new Set();
let socket = null;
let attempts = 0;
let retryTimer = null;
let hiddenTimer = null;
let lastMessageAt = null;
let wasConnected = false;
let started = false;
let pausedByHand = false; // WCAG 2.2.2: what moves by itself can be stopped

/** Calls back with each sample of a topic; gives a function that ends it. */
export function subscribe(topic, callback) {
  if (!followers.has(topic)) followers.set(topic, new Set());
  followers.get(topic).add(callback);
  request(topic);
  return () => followers.get(topic)?.delete(callback);
}

/** Calls back when the connection is there again after a pause: what was missed must be fetched. */
export function onReturn(callback) {
  returnCallbacks.add(callback);
}

/** Subscribes to every topic named in the document; call again after new markup came in. */
export function scan(root = document) {
  for (const element of root.querySelectorAll('[data-topic]')) request(element.dataset.topic);
}

export function start() {
  if (started || !document.body.dataset.liveUrl) return;
  started = true;
  scan();
  if (!subscribed.size) return;
  connect();
  document.addEventListener('visibilitychange', onVisibility);
  document.addEventListener('htmx:after:swap', () => scan());
  for (const mark of document.querySelectorAll('[data-live-state]')) {
    mark.addEventListener('click', () => togglePause());
  }
  for (const button of document.querySelectorAll('[data-live-reconnect]')) {
    button.addEventListener('click', () => connect());
  }
}

function request(topic) {
  if (subscribed.has(topic) || subscribed.size >= TOPICS_MAX) return;
  subscribed.add(topic);
  if (socket?.readyState === WebSocket.OPEN) send({ subscribe: [topic] });
  else if (started && !socket) connect();
}

function send(message) {
  socket.send(JSON.stringify(message));
}

function connect() {
  clearTimeout(retryTimer);
  if (socket && socket.readyState <= WebSocket.OPEN) return;
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  const opened = new WebSocket(`${scheme}//${location.host}${document.body.dataset.liveUrl}`);
  socket = opened;
  opened.addEventListener('open', () => {
    attempts = 0;
    send({ subscribe: [...subscribed] });
    showState('live');
    if (wasConnected) catchUp();
    wasConnected = true;
  });
  opened.addEventListener('message', (event) => receive(JSON.parse(event.data)));
  opened.addEventListener('close', (event) => {
    if (socket !== opened) return;
    socket = null;
    if (event.code === CLOSE_LOGIN) {
      showState('paused', 'You are logged out: reload the page to log in.');
      return;
    }
    if (!hiddenTimer || !document.hidden) retryLater();
  });
}

function retryLater() {
  const wait = BACKOFF_S[Math.min(attempts, BACKOFF_S.length - 1)];
  const seconds = wait * (0.8 + Math.random() * 0.4);
  attempts += 1;
  if (attempts > 1 || wasConnected) showState('paused', `Retrying in ${Math.round(seconds)} s.`);
  retryTimer = setTimeout(connect, seconds * 1000);
}

function onVisibility() {
  clearTimeout(hiddenTimer);
  hiddenTimer = null;
  if (document.hidden) {
    hiddenTimer = setTimeout(() => socket?.close(), HIDDEN_CLOSE_MS);
  } else if (!socket) {
    connect();
  }
}

function togglePause() {
  if (!socket) {
    connect();
    return;
  }
  pausedByHand = !pausedByHand;
  showMark(pausedByHand ? 'paused' : 'live');
  if (!pausedByHand) catchUp();
}

function receive(message) {
  lastMessageAt = new Date();
  if (pausedByHand) return;
  if (message.t === 'sample') {
    showSample(message.topic, message.data);
    for (const callback of followers.get(message.topic) ?? []) callback(message.data);
  } else if (message.t === 'changed') {
    announceChange(message.topic, message.what);
  }
}

function showSample(topic, data) {
  if (document.hidden) return;
  for (const element of document.querySelectorAll('[data-live]')) {
    if (element.closest('[data-topic]')?.dataset.topic !== topic) continue;
    const value = fieldOf(data, element.dataset.live);
    if (value === undefined || isKept(element, value, data.t)) continue;
    write(element, formats[element.dataset.format ?? 'number'](value));
  }
}

// A figure of requests stands for a minute after the last one that finished: then there is none to speak of.
const KEPT_S = 60;

function isKept(element, value, t) {
  if (!element.hasAttribute('data-keep')) return false;
  if (value !== null) {
    element.dataset.at = t;
    return false;
  }
  element.dataset.at ??= t;
  return t - element.dataset.at < KEPT_S;
}

// "weights_bytes+kv_bytes" is the sum of what was measured of both.
function fieldOf(data, names) {
  if (!names.includes('+')) return data[names];
  const known = names.split('+').map((name) => data[name]).filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((sum, value) => sum + Number(value), 0) : null;
}

const waiting = new Set();
let settleTimer = null;

// Several changes often come together: they are gathered for a moment, then each fragment is fetched once.
function announceChange(topic, what) {
  for (const element of document.querySelectorAll('[data-topic][data-on]')) {
    if (element.dataset.topic === topic && element.dataset.on.split(' ').includes(what)) waiting.add(element);
  }
  document.dispatchEvent(new CustomEvent('raydeck:changed', { detail: { topic, what } }));
  if (settleTimer === null && waiting.size) settleTimer = setTimeout(refetchWaiting, SETTLE_MS);
}

function refetchWaiting() {
  settleTimer = null;
  for (const element of waiting) {
    if (element.isConnected) element.dispatchEvent(new CustomEvent('changed'));
  }
  waiting.clear();
}

function catchUp() {
  for (const element of document.querySelectorAll('[data-on]')) waiting.add(element);
  refetchWaiting();
  for (const callback of returnCallbacks) callback();
}

function showMark(state) {
  for (const mark of document.querySelectorAll('[data-live-state]')) {
    mark.hidden = false;
    mark.classList.toggle('paused', state !== 'live');
    mark.setAttribute('aria-pressed', String(state !== 'live'));
    mark.querySelector('[data-live-word]').textContent = state === 'live' ? 'Live' : 'Paused';
  }
}

function showState(state, words) {
  showMark(pausedByHand ? 'paused' : state);
  const banner = document.querySelector('[data-live-banner]');
  if (!banner) return;
  banner.hidden = state === 'live';
  if (state === 'live') return;
  const since = lastMessageAt ?? new Date(performance.timeOrigin);
  banner.querySelector('[data-live-since]').textContent = exactClock(since);
  banner.querySelector('[data-live-retry]').textContent = words;
}
