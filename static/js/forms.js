// Forms: fields that only matter for one choice are hidden for the others, and focus goes to what is wrong.

function sourceFields() {
  const hubOnly = document.querySelector('[data-hub]');
  if (!hubOnly) return;
  const update = () => {
    const chosen = document.querySelector('input[name=source_kind]:checked')?.value;
    hubOnly.hidden = chosen !== 'hub';
    document.querySelector('[data-elsewhere]').hidden = chosen === 'folder';
    const source = document.querySelector('input[name=source]');
    source.placeholder = {
      folder: '/models/my-model',
      hub: 'organisation/model',
      object_store: 's3://bucket/path',
    }[chosen] ?? '';
  };
  document.addEventListener('change', (event) => {
    if (event.target.name === 'source_kind') update();
  });
  update();
}

sourceFields();
document.querySelector('[data-focus]')?.focus();
