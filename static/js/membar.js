// Memory bars follow their topic's samples: weights, KV cache and rest as shares of what was measured.
import { gib } from './fmt.js';
import { subscribe } from './live.js';

const PARTS = [['w', 'weights_bytes', 'weights'], ['k', 'kv_bytes', 'KV cache'], ['o', 'rest_bytes', 'rest']];
const GAP = 0.3;

export function followMemory() {
  for (const bar of document.querySelectorAll('svg[data-membar]')) {
    const topic = bar.closest('[data-topic]')?.dataset.topic;
    if (topic) subscribe(topic, (sample) => draw(bar, sample));
  }
}

function draw(bar, sample) {
  const sizes = PARTS.map(([, field]) => Number(sample[field] ?? 0));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  if (!total || document.hidden) return;
  let position = 0;
  PARTS.forEach(([kind], index) => {
    const width = (100 * sizes[index]) / total;
    const part = bar.querySelector(`.${kind}`) ?? addPart(bar, kind);
    part.setAttribute('x', position.toFixed(2));
    part.setAttribute('width', Math.max(0, width - GAP).toFixed(2));
    position += width;
  });
  const words = PARTS.map(([, field, word]) => `${word} ${gib(sample[field])}`);
  bar.setAttribute('aria-label', words.join(', '));
}

function addPart(bar, kind) {
  const part = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  part.setAttribute('class', kind);
  part.setAttribute('height', '10');
  bar.append(part);
  return part;
}
