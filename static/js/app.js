// Behaviour common to every page; each part works on attributes and does nothing where they are absent.
import { answered } from './confirm.js';
import { clock, duration } from './fmt.js';
import { watchFragments } from './fragments.js';
import { start } from './live.js';
import { followMemory } from './membar.js';

function themeToggle() {
  const root = document.documentElement;
  for (const button of document.querySelectorAll('[data-theme-toggle]')) {
    button.addEventListener('click', () => {
      root.dataset.theme = root.dataset.theme === 'dark' ? 'light' : 'dark';
      try {
        localStorage.setItem('raydeck.theme', root.dataset.theme);
      } catch (error) {
        console.info('The theme is not remembered: storage is switched off.', error.name);
      }
      document.dispatchEvent(new CustomEvent('raydeck:theme'));
    });
  }
}

function localTimes(root = document) {
  for (const element of root.querySelectorAll('time[data-clock]')) {
    element.textContent = clock(new Date(element.dateTime));
  }
}

const TOAST_MS = 6000;
const UNDO_MS = 8000;

function settleToast(toast) {
  toast.querySelector('[data-toast-close]').addEventListener('click', () => toast.remove());
  if (toast.classList.contains('error')) return;
  const leave = () => {
    // Who has reached for it is not robbed of it.
    if (toast.matches(':hover, :focus-within')) setTimeout(leave, TOAST_MS);
    else toast.remove();
  };
  setTimeout(leave, toast.querySelector('[data-undo]') ? UNDO_MS : TOAST_MS);
}

// Shows a result that is not visible elsewhere on the screen; at most three at once.
function toast(text, level = 'success') {
  const list = document.querySelector('[data-toasts]');
  const box = document.createElement('div');
  box.className = `toast ${level}`;
  const words = document.createElement('span');
  words.className = 'grow';
  words.textContent = text;
  const close = document.createElement('button');
  close.className = 'btn gho xs';
  close.type = 'button';
  close.dataset.toastClose = '';
  close.textContent = 'Dismiss';
  box.append(words, close);
  list.append(box);
  while (list.children.length > 3) list.firstElementChild.remove();
  settleToast(box);
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const text = button.dataset.copyText ?? source.textContent;
  const label = button.querySelector('[data-copy-label]');
  try {
    await navigator.clipboard.writeText(text);
    if (label) label.textContent = 'Copied';
    else toast('Copied.');
  } catch (error) {
    toast(`The browser refused to copy (${error.name}). Select the text and copy it by hand.`, 'error');
  }
  if (label) setTimeout(() => { label.textContent = 'Copy'; }, 2000);
}

function choosePanel(button) {
  const group = button.closest('[data-panels]');
  for (const other of group.querySelectorAll('[data-panel]')) {
    other.setAttribute('aria-pressed', String(other === button));
  }
  for (const panel of group.querySelectorAll('[data-panel-of]')) {
    panel.hidden = panel.dataset.panelOf !== button.dataset.panel;
  }
}

function openDialog(id) {
  const dialog = document.getElementById(id);
  for (const submit of dialog.querySelectorAll('[data-needs-name]')) submit.disabled = true;
  dialog.showModal();
  dialog.querySelector('[autofocus], input:not([type=hidden])')?.focus();
}

function onClick(event) {
  const link = event.target.closest('a[data-dialog-link]');
  if (link) {
    event.preventDefault();
    link.closest('details')?.removeAttribute('open');
    openDialog(link.dataset.dialogLink);
  }
  for (const menu of document.querySelectorAll('details.menu[open]')) {
    if (!menu.contains(event.target)) menu.removeAttribute('open');
  }
  const button = event.target.closest('button');
  if (!button) return;
  if (button.hasAttribute('data-copy') || button.hasAttribute('data-copy-text')) copy(button);
  if (button.hasAttribute('data-panel')) choosePanel(button);
  if (button.hasAttribute('data-dialog')) openDialog(button.dataset.dialog);
  if (button.hasAttribute('data-dialog-close')) button.closest('dialog').close();
}

// Counts on from what the server said, so that the two clocks need not agree.
function countElapsed() {
  for (const element of document.querySelectorAll('[data-elapsed]')) {
    if (element.dataset.elapsed !== element.seenElapsed) {
      element.seenElapsed = element.dataset.elapsed;
      element.since = performance.now() - Number(element.dataset.elapsed) * 1000;
    }
    const text = duration((performance.now() - element.since) / 1000);
    if (element.textContent !== text) element.textContent = text;
  }
}

// Typed-name confirmation: the destroying button works once the name matches.
function onInput(event) {
  const wanted = event.target.dataset.mustEqual;
  if (wanted === undefined) return;
  const submit = event.target.form.querySelector('[data-needs-name]');
  submit.disabled = event.target.value.trim() !== wanted;
}

// A form is sent once: the second click of a double click finds its button disabled.
function onSubmit(event) {
  const form = event.target;
  if (event.submitter?.hasAttribute('data-confirm') && !answered(event)) return;
  if (form.hasAttribute('data-once') && form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = '1';
  const submit = event.submitter;
  if (!submit || !form.hasAttribute('data-once')) return;
  submit.setAttribute('aria-busy', 'true');
  if (submit.dataset.busyLabel) submit.textContent = submit.dataset.busyLabel;
}

function onReady() {
  themeToggle();
  localTimes();
  for (const element of document.querySelectorAll('[data-toast]')) settleToast(element);
  document.addEventListener('click', onClick);
  document.addEventListener('input', onInput);
  document.addEventListener('submit', onSubmit);
  document.addEventListener('htmx:after:swap', () => localTimes());
  setInterval(countElapsed, 1000);
  document.querySelector('[data-focus]')?.focus();
  addEventListener('pageshow', (event) => {
    // Back from the next page: the form may be sent again.
    if (event.persisted) for (const form of document.forms) delete form.dataset.sent;
  });
  watchFragments();
  followMemory();
  start();
  document.body.dataset.ready = '1';
}

onReady();
