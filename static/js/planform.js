// Topology cards fill the two size fields; the plan follows the fields as if they had been typed.
const form = document.getElementById('deploy-form');

form.addEventListener('click', (event) => {
  const choice = event.target.closest('[data-tensor]');
  if (!choice || choice.getAttribute('aria-disabled') === 'true') return;
  form.elements.namedItem('tensor_parallel_size').value = choice.dataset.tensor;
  const pipeline = form.elements.namedItem('pipeline_parallel_size');
  pipeline.value = choice.dataset.pipeline;
  pipeline.dispatchEvent(new Event('input', { bubbles: true }));
});
