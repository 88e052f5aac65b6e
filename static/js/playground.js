// The playground page: composing, sending, streaming, stopping, and the conversation around it.
import { Answer } from './chat_answer.js';
import { summary } from './chat_figures.js';
import { asCode, Parameters } from './chat_params.js';
import { ChatSocket } from './chat_socket.js';

const NEAR_END_PX = 80;
const STARTING = ['queued', 'placing', 'loading', 'warming'];
const CHARACTERS_PER_TOKEN = 4;
const TEMPLATE_TOKENS = 16; // what a chat template puts around a message, about

const page = document.getElementById('chat');
const log = document.getElementById('log');
const box = document.getElementById('message');
const composer = document.getElementById('composer');
const stopButton = document.getElementById('stop');
const sendButton = document.getElementById('send');
const toEnd = document.getElementById('to-end');
const announce = document.getElementById('announce');
const urls = page.dataset;

const data = JSON.parse(document.getElementById('chat-data').textContent);
const parameters = new Parameters(document.getElementById('parameters'), data.settings);
const socket = new ChatSocket({ onFrame, onLost });

let conversationId = data.conversation_id;
let exchanges = [];
let coming = null; // the Answer that is streaming
let following = true;
let placed = 0;

// --- what the server rendered -----------------------------------------------------------------------------

function adopt() {
  for (const element of log.querySelectorAll('[data-exchange]')) {
    const answer = new Answer(element.querySelector('[data-answer]'), urls);
    const kept = data.replies[element.dataset.exchange] ?? [];
    answer.adopt(kept.length ? kept : [{ text: '', state: 'error', stats: {} }]);
    exchanges.push({ element, question: element.querySelector('[data-question]').textContent, answer });
  }
  afterChange();
}

// --- which deployment --------------------------------------------------------------------------------------

function chosen() {
  return document.querySelector('#picker input[name=deployment]:checked');
}

function choose(name) {
  const radio = [...document.querySelectorAll('#picker input[name=deployment]')].find((one) => one.value === name);
  if (radio) radio.checked = true;
  showChosen();
}

function showChosen() {
  const radio = chosen();
  const head = document.getElementById('chosen');
  const row = radio?.closest('[data-row]');
  head.querySelector('[data-name]').textContent = radio ? radio.value : 'Choose a deployment';
  const state = document.getElementById('chosen-state');
  state.replaceChildren(...(row ? [row.querySelector('.st').cloneNode(true)] : []));
  document.getElementById('chosen-price').textContent = row?.dataset.price ?? '';
  const reason = document.getElementById('chosen-reason');
  const usable = row && !('unusable' in row.dataset);
  reason.textContent = row ? row.dataset.why : '';
  reason.hidden = !usable || row.dataset.phase === 'ready';
  showWaiting(row, usable);
  for (const list of document.querySelectorAll('[data-suggestions]')) {
    list.hidden = list.dataset.suggestions !== radio?.value;
  }
  document.getElementById('view-code').disabled = !radio;
  fitContext();
  sendButton.disabled = coming !== null || !usable;
  showContext();
}

/** Why Send does not work now; the list is fetched anew with every change of state, which brings it back. */
function showWaiting(row, usable) {
  const waiting = document.getElementById('waiting');
  waiting.hidden = Boolean(usable) || !document.querySelector('#picker [data-row]');
  waiting.querySelector('[data-spinner]').hidden = !STARTING.includes(row?.dataset.phase);
  const words = row ? `${row.querySelector('input').value}: ${row.dataset.why}`
    : 'No deployment is ready. Choose one above to see why.';
  const place = waiting.querySelector('[data-words]');
  if (place.textContent !== words) place.textContent = words;
}

function contextOfChosen() {
  return Number(chosen()?.closest('[data-row]')?.dataset.context ?? 0);
}

/** Tokens of the next prompt: what the engine counted for this chat, and an estimate for what is new. */
function promptTokens() {
  const last = lastCounted();
  const known = last ? last.prompt_tokens + last.completion_tokens : 0;
  const unknown = (last ? 0 : parameters.values().system.length) + box.value.length;
  return known + Math.ceil(unknown / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS;
}

function fitContext() {
  const limit = contextOfChosen();
  if (limit) parameters.fitContext(limit, promptTokens());
}

// --- the conversation as data ------------------------------------------------------------------------------

/** Messages up to and including the question of exchange `upTo`; unanswered ones before it are left out. */
function messagesUpTo(upTo) {
  const messages = [];
  exchanges.forEach((one, index) => {
    if (index > upTo) return;
    const reply = one.answer.current.text;
    if (index < upTo && !reply) return;
    messages.push({ role: 'user', content: one.question });
    if (index < upTo) messages.push({ role: 'assistant', content: reply });
  });
  return messages;
}

function lastCounted() {
  return exchanges.map((one) => one.answer.current.stats).findLast((one) => typeof one.prompt_tokens === 'number');
}

function showContext() {
  const last = lastCounted();
  const limit = contextOfChosen();
  const place = document.getElementById('context');
  if (!last || !limit) {
    place.textContent = '';
    return;
  }
  const used = last.prompt_tokens + last.completion_tokens;
  place.textContent = `${used.toLocaleString('en-US')} tok in context · ${Math.round((100 * used) / limit)}% of `
    + `${limit.toLocaleString('en-US')}`;
}

// --- sending and stopping ----------------------------------------------------------------------------------

function ask(question) {
  const element = document.getElementById('exchange-template').content.firstElementChild.cloneNode(true);
  element.querySelector('[data-question]').textContent = question;
  log.append(element);
  const answer = new Answer(element.querySelector('[data-answer]'), urls);
  exchanges.push({ element, question, answer });
  followAgain();
  request(exchanges.length - 1, false);
}

async function request(index, regenerate) {
  const radio = chosen();
  const wrong = parameters.invalid();
  if (wrong) {
    reportWrong(wrong);
    if (!regenerate) withdraw(index);
    return;
  }
  coming = exchanges[index].answer;
  coming.begin();
  afterChange();
  try {
    await socket.open();
    socket.send({
      send: {
        deployment: radio.value,
        messages: messagesUpTo(index),
        conversation_id: conversationId,
        regenerate,
        ...parameters.values(),
      },
    });
  } catch (error) {
    finish({
      state: 'error',
      error: { code: 'connection_lost', message: 'The console does not answer, or you are logged out. Reload the page.' },
    });
  }
}

function reportWrong(field) {
  const panel = document.getElementById('parameters');
  if (getComputedStyle(panel).display === 'none') panel.showPopover();
  field.reportValidity();
}

/** Takes a question back into the box. */
function withdraw(index) {
  const [taken] = exchanges.splice(index, 1);
  taken.element.remove();
  box.value = taken.question;
  afterChange();
}

function stop() {
  if (!coming) return;
  stopButton.disabled = true;
  if (socket.isOpen) socket.send({ stop: true });
  else finish({ state: 'stopped' });
}

// --- what comes --------------------------------------------------------------------------------------------

function onFrame(frame) {
  if (frame.t === 'token') {
    coming?.push(frame.text, follow);
  } else if (frame.t === 'started') {
    begun(frame);
  } else if (frame.t === 'done') {
    finish(frame);
  } else if (frame.t === 'error') {
    const { code, message, retry_after_s: wait } = frame;
    finish({ state: 'error', stats: frame.stats, error: { code, message, retry_after_s: wait } });
  }
}

function begun(frame) {
  document.getElementById('not-kept').hidden = frame.kept || !data.keeps_history;
  if (frame.conversation_id === conversationId) return;
  moveDraft(conversationId, frame.conversation_id);
  conversationId = frame.conversation_id;
  if (conversationId === null) return;
  const url = urls.conversationUrl.replace('0', String(conversationId));
  history.replaceState(null, '', url);
  document.getElementById('chat-title').textContent = frame.title;
  document.dispatchEvent(new CustomEvent('raydeck:conversation'));
}

function onLost() {
  if (!coming) return;
  finish({
    state: 'error',
    stats: coming.current.stats,
    error: { code: 'connection_lost', message: 'The connection to the console was lost.' },
  });
}

function finish(result) {
  if (!coming) return;
  const answer = coming;
  coming = null;
  answer.finish(result);
  const words = { complete: 'Reply complete', stopped: 'Reply stopped', error: 'The reply failed' }[result.state];
  announce.textContent = `${words}, ${result.stats?.completion_tokens ?? 0} tokens.`;
  afterChange();
  if (!matchMedia('(pointer: coarse)').matches) box.focus();
}

// --- keeping the page in step ------------------------------------------------------------------------------

function afterChange() {
  const busy = coming !== null;
  stopButton.hidden = !busy;
  stopButton.disabled = false;
  sendButton.hidden = busy;
  document.getElementById('blank').hidden = exchanges.length > 0;
  exchanges.forEach((one, index) => {
    one.element.classList.toggle('last', index === exchanges.length - 1);
  });
  const stats = exchanges.flatMap((one) => one.answer.versions.map((version) => version.stats));
  for (const [name, value] of Object.entries(summary(stats))) {
    document.querySelector(`[data-total-of="${name}"]`).textContent = value;
  }
  showChosen();
  follow();
}

function nearEnd() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
}

function follow() {
  // Somebody who scrolls up is told by the position: the event may come only after the next text.
  if (log.scrollTop < placed - 1) following = nearEnd();
  if (following) log.scrollTop = log.scrollHeight;
  placed = log.scrollTop;
  toEnd.hidden = following || nearEnd();
}

function followAgain() {
  following = true;
  placed = 0;
}

function growBox() {
  box.style.height = 'auto';
  box.style.height = `${Math.min(box.scrollHeight, 180)}px`;
}

// --- draft -------------------------------------------------------------------------------------------------

function draftKey(id) {
  return `raydeck.draft.${id ?? 'new'}`;
}

function keepDraft() {
  try {
    if (box.value) sessionStorage.setItem(draftKey(conversationId), box.value);
    else sessionStorage.removeItem(draftKey(conversationId));
  } catch (error) {
    console.info('The draft is not kept:', error.name);
  }
}

function moveDraft(from, to) {
  try {
    sessionStorage.removeItem(draftKey(from));
    if (box.value) sessionStorage.setItem(draftKey(to), box.value);
  } catch (error) {
    console.info('The draft is not kept:', error.name);
  }
}

function restoreDraft() {
  try {
    box.value = sessionStorage.getItem(draftKey(conversationId)) ?? '';
  } catch (error) {
    console.info('The draft is not kept:', error.name);
  }
  growBox();
}

// --- events ------------------------------------------------------------------------------------------------

composer.addEventListener('submit', (event) => {
  event.preventDefault();
  const question = box.value.trim();
  if (!question || coming || sendButton.disabled) return;
  box.value = '';
  keepDraft();
  growBox();
  ask(question);
});

box.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

box.addEventListener('input', () => {
  growBox();
  fitContext();
  keepDraft();
});

box.addEventListener('focus', () => {
  socket.open().catch((error) => console.info('The chat connection is not there yet:', error.message));
}, { once: true });

stopButton.addEventListener('click', stop);

document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || !coming) return;
  if (document.querySelector('dialog[open], :popover-open, details.menu[open]')) return;
  event.preventDefault();
  stop();
});

log.addEventListener('scroll', () => {
  following = nearEnd();
  toEnd.hidden = following;
});

toEnd.addEventListener('click', () => {
  followAgain();
  follow();
});

log.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  const index = exchanges.findIndex((one) => one.element.contains(button));
  const answer = exchanges[index]?.answer;
  if ('copyCode' in button.dataset) copy(button.closest('.md-code').querySelector('code').textContent, button);
  else if ('copyReply' in button.dataset) copy(answer.current.text, button);
  else if (('again' in button.dataset || 'retry' in button.dataset) && !coming && !sendButton.disabled) request(index, true);
  else if ('older' in button.dataset || 'newer' in button.dataset) {
    answer.show(answer.shown + ('newer' in button.dataset ? 1 : -1));
    afterChange();
  } else if ('suggest' in button.dataset) {
    box.value = button.textContent;
    composer.requestSubmit();
  }
});

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    announce.textContent = 'Copied.';
    button.classList.add('done');
    setTimeout(() => button.classList.remove('done'), 1500);
  } catch (error) {
    announce.textContent = `The browser refused to copy (${error.name}).`;
  }
}

page.addEventListener('change', (event) => {
  if (event.target.name !== 'deployment') return;
  showChosen();
  const url = new URL(location.href);
  url.searchParams.set('a', event.target.value);
  history.replaceState(null, '', url);
  document.getElementById('picker-menu').open = false;
});

document.addEventListener('click', (event) => {
  const menu = document.getElementById('picker-menu');
  if (menu.open && !menu.contains(event.target)) menu.open = false;
});

document.addEventListener('keydown', (event) => {
  const menu = document.getElementById('picker-menu');
  if (event.key !== 'Escape' || !menu.open) return;
  menu.open = false;
  menu.querySelector('summary').focus();
});

// The list is fetched anew when a state changes; what was chosen stays chosen.
let chosenBefore = null;
document.addEventListener('htmx:before:swap', () => { chosenBefore = chosen()?.value ?? chosenBefore; });
document.addEventListener('htmx:after:swap', () => {
  choose(chosenBefore ?? document.querySelector('#picker input[name=deployment]:enabled')?.value);
});

document.getElementById('view-code').addEventListener('click', () => {
  const messages = box.value.trim() || !exchanges.length
    ? [...messagesUpTo(exchanges.length), { role: 'user', content: box.value.trim() || 'Hello' }]
    : messagesUpTo(exchanges.length - 1);
  const settings = parameters.values();
  const code = asCode({
    baseUrl: urls.baseUrl, deployment: chosen().value, system: settings.system, messages, settings,
  });
  document.getElementById('code-curl').textContent = code.curl;
  document.getElementById('code-python').textContent = code.python;
  document.getElementById('code-dialog').showModal();
});

document.getElementById('keep-history')?.addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector('[role=switch]');
  const keep = button.getAttribute('aria-checked') !== 'true';
  const body = new FormData(form);
  body.set('keep', keep ? '1' : '0');
  const answer = await fetch(form.action, { method: 'POST', body, headers: { Accept: 'application/json' } });
  if (!answer.ok) {
    announce.textContent = 'The switch could not be saved.';
    return;
  }
  data.keeps_history = keep;
  button.setAttribute('aria-checked', String(keep));
  for (const words of document.querySelectorAll('[data-history]')) words.hidden = words.dataset.history !== String(keep);
});

adopt();
restoreDraft();
choose(data.deployment);
follow();
page.dataset.ready = '1';
