// Renders a reply's Markdown while it streams, safely.
//
// Model output is hostile input: marked makes HTML of it, raw HTML in it is dropped, DOMPurify lets only the
// tags below through, images become links (a remote image would carry text out of the page), links open
// elsewhere without a way back. What the user wrote never comes here: it is shown as text.
//
// A block that a later block has followed can no longer change: it is rendered once and left alone; each frame
// parses the last block only. Parsing the whole reply for every token makes long replies crawl.
import { Marked } from '../vendor/marked-18.2.1.esm.js';
import { highlight } from './chat_highlight.js';

const TAGS = [
  'a', 'blockquote', 'br', 'code', 'del', 'div', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'li', 'ol', 'p',
  'pre', 's', 'strong', 'sub', 'sup', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul',
];
const ATTRIBUTES = ['href', 'title', 'start', 'align', 'class'];
const LANGUAGE = /^[a-z0-9+#._-]{1,30}$/i;
const LINK = /^(?:https?:\/\/|mailto:)/i;

const marked = new Marked({
  gfm: true,
  renderer: {
    html(token) {
      return token.block ? `<p>${escape(withoutTags(token.text))}</p>` : '';
    },
    image({ href, text }) {
      const words = escape(text || 'image');
      return LINK.test(href) ? `<a href="${escape(href)}">${words}</a>` : words;
    },
    checkbox({ checked }) {
      return checked ? '☑ ' : '☐ ';
    },
    code({ text, lang }) {
      const language = (lang ?? '').trim().split(/\s/)[0];
      const name = LANGUAGE.test(language) ? ` class="language-${language.toLowerCase()}"` : '';
      return `<pre><code${name}>${escape(text)}</code></pre>`;
    },
  },
});

function escape(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}

// The rest is escaped afterwards: this is for reading, not for safety. No parser sees the raw HTML.
function withoutTags(html) {
  return html.replace(/<(script|style)\b[^]*?(<\/\1\s*>|$)/gi, ' ').replace(/<[^>]*>?/g, ' ').trim();
}

/** HTML of marked as a fragment that is safe to attach. */
function sanitised(html) {
  const fragment = window.DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOWED_URI_REGEXP: LINK,
    ADD_URI_SAFE_ATTR: ['start', 'align'],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll('a')) {
    if (!LINK.test(link.getAttribute('href') ?? '')) {
      link.replaceWith(...link.childNodes);
      continue;
    }
    link.rel = 'noopener noreferrer';
    link.target = '_blank';
  }
  for (const marked_ of fragment.querySelectorAll('[class]')) {
    if (!marked_.className.startsWith('language-')) marked_.removeAttribute('class');
  }
  for (const table of fragment.querySelectorAll('table')) wrap(table, 'md-scroll');
  for (const pre of fragment.querySelectorAll('pre')) dressCode(pre);
  return fragment;
}

function wrap(element, className) {
  const box = document.createElement('div');
  box.className = className;
  box.tabIndex = 0;
  element.replaceWith(box);
  box.append(element);
}

function dressCode(pre) {
  const code = pre.querySelector('code');
  const language = (code?.className ?? '').replace('language-', '');
  const box = document.createElement('div');
  box.className = 'md-code';
  const head = document.createElement('div');
  head.className = 'md-code-head';
  const name = document.createElement('span');
  name.textContent = language || 'text';
  const copy = document.createElement('button');
  copy.type = 'button';
  copy.className = 'btn gho xs';
  copy.dataset.copyCode = '';
  copy.textContent = 'Copy';
  head.append(name, copy);
  pre.className = 'code';
  pre.tabIndex = 0;
  pre.replaceWith(box);
  box.append(head, pre);
}

/** Shows one reply in `element`, piece by piece. */
export class ReplyView {
  constructor(element) {
    this.element = element;
    this.text = '';
    this.frozenAt = 0;
    this.frame = 0;
    this.done = false;
    this.tail = document.createElement('div');
    this.tail.className = 'md-tail';
    element.replaceChildren(this.tail);
  }

  /** A piece came: it is on the screen with the next frame. */
  push(piece, afterPaint) {
    this.text += piece;
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
      afterPaint?.();
    });
  }

  /** Nothing more comes. */
  end() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.done = true;
    this.paint();
  }

  paint() {
    const blocks = marked.lexer(this.text.slice(this.frozenAt));
    let lastOpen = this.done ? blocks.length : blocks.findLastIndex((block) => block.type !== 'space');
    if (lastOpen < 0) lastOpen = 0;
    const finished = blocks.slice(0, lastOpen);
    if (finished.length) {
      const fragment = sanitised(parsed(finished, blocks.links));
      for (const code of fragment.querySelectorAll('pre > code[class]')) highlight(code);
      this.tail.before(fragment);
      this.frozenAt += finished.reduce((length, block) => length + block.raw.length, 0);
    }
    const open = blocks.slice(lastOpen);
    this.tail.replaceChildren(open.length ? sanitised(parsed(open, blocks.links)) : '');
  }
}

function parsed(blocks, links) {
  const list = [...blocks];
  list.links = links;
  return marked.parser(list);
}

/** Shows a whole reply at once. */
export function showReply(element, text) {
  const view = new ReplyView(element);
  view.text = text;
  view.end();
  return view;
}
