// The logs tab: follows the end while it is in view, filters by level and text. Lines come as a fragment every
// 3 s; text only, put in by the server's template.
const box = document.getElementById('log-box');
const follow = document.querySelector('[data-log-follow]');
const filter = document.querySelector('[data-log-filter]');
const levels = document.querySelector('[data-log-levels]');
const EVERY_MS = 3000;
const NEAR_END_PX = 40;
let wanted = '';

const atEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END_PX;

function setFollowing(on) {
  follow.setAttribute('aria-pressed', String(on));
  follow.lastChild.textContent = on ? 'Following' : 'Follow';
  if (on) box.scrollTop = box.scrollHeight;
}

const following = () => follow.getAttribute('aria-pressed') === 'true';

function applyFilter() {
  const words = filter.value.trim().toLowerCase();
  for (const line of box.querySelectorAll('div')) {
    const level = line.dataset.l ?? '';
    const levelFits = !wanted || (level && wanted.includes(level));
    line.hidden = !levelFits || (words && !line.textContent.toLowerCase().includes(words));
  }
}

async function fetchLines() {
  if (document.hidden || !following()) return;
  try {
    const response = await fetch(box.dataset.linesUrl);
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const parsed = new DOMParser().parseFromString(await response.text(), 'text/html');
    if (parsed.body.textContent === box.textContent) return;
    box.replaceChildren(...parsed.body.childNodes);
    applyFilter();
    box.scrollTop = box.scrollHeight;
  } catch (error) {
    console.info('The log could not be fetched; trying again.', error.message);
  }
}

for (const element of [follow, filter, levels]) element.hidden = false;
follow.addEventListener('click', () => setFollowing(!following()));
box.addEventListener('scroll', () => {
  if (following() && !atEnd()) setFollowing(false);
});
filter.addEventListener('input', applyFilter);
levels.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  for (const other of levels.children) other.setAttribute('aria-pressed', String(other === button));
  wanted = button.dataset.level;
  applyFilter();
});
box.scrollTop = box.scrollHeight;
setInterval(fetchLines, EVERY_MS);
