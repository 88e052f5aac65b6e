// What an answer to a fragment means when it is not the fragment. A login page (the session ended) or a 404 (the
// thing was deleted by somebody else) must not be put into the middle of the page: the page is loaded anew and
// says so itself, unless something typed would be lost.

const hasTypedInput = () =>
  [...document.querySelectorAll('input, textarea')].some((field) => field.value !== field.defaultValue);

function onAnswer(event) {
  const { raw, status } = event.detail.ctx.response;
  if (!raw.redirected && status !== 404) return;
  event.preventDefault();
  if (!hasTypedInput()) location.reload();
}

export function watchFragments() {
  document.addEventListener('htmx:before:response', onAnswer);
}
