// Colours finished code blocks. The highlighter is fetched when the first block that it knows is complete.
const LANGUAGES = {
  bash: 'bash', sh: 'bash', shell: 'bash', console: 'bash', zsh: 'bash',
  python: 'python', py: 'python',
  javascript: 'javascript', js: 'javascript',
  json: 'json', yaml: 'yaml', yml: 'yaml', sql: 'sql', markdown: 'markdown', md: 'markdown',
};
const CLASSES = /^hljs-[a-z_-]+$/;
const loaded = new Map();

/** Colours a <code class="language-…"> in place, now or when the highlighter is there. */
export async function highlight(code) {
  const language = LANGUAGES[code.className.replace('language-', '')];
  if (!language) return;
  const text = code.textContent;
  const engine = await load(language);
  const html = engine.highlight(text, { language, ignoreIllegals: true }).value;
  const fragment = window.DOMPurify.sanitize(html, {
    ALLOWED_TAGS: ['span'],
    ALLOWED_ATTR: ['class'],
    RETURN_DOM_FRAGMENT: true,
  });
  for (const span of fragment.querySelectorAll('span')) {
    if (!span.className.split(' ').every((name) => CLASSES.test(name))) span.removeAttribute('class');
  }
  code.replaceChildren(fragment);
}

async function load(language) {
  const { default: engine } = await import('../vendor/highlight/core.min.js');
  if (!loaded.has(language)) loaded.set(language, import(`../vendor/highlight/languages/${language}.min.js`));
  const module = await loaded.get(language);
  if (!engine.getLanguage(language)) engine.registerLanguage(language, module.default);
  return engine;
}
