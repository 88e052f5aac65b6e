// The deployment form: the idle time matters only with zero fewest replicas, and the name follows the model
// until somebody types one.
const form = document.getElementById('deploy-form');
const field = (name) => form.elements.namedItem(name);

function showIdle() {
  const idle = field('idle_before_zero_s');
  const canSleep = field('min_replicas').value.trim() === '0';
  idle.closest('.field').hidden = !canSleep;
  if (!canSleep) idle.value = '';
  else if (!idle.value) idle.value = '900';
}

function followModel() {
  const name = field('name');
  if (!name || name.dataset.typed || !field('model').value) return;
  name.value = field('model').value.toLowerCase().replaceAll('_', '-').slice(0, 40);
}

field('min_replicas').addEventListener('input', showIdle);
field('model').addEventListener('change', followModel);
const name = field('name');
if (name) {
  if (name.value) name.dataset.typed = '1';
  name.addEventListener('input', () => { name.dataset.typed = '1'; });
}
showIdle();
followModel();
