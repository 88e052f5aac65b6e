// Asks before a form that interrupts traffic is sent. The button says what is asked:
//   data-confirm (title), data-confirm-text (impact), data-confirm-yes, data-confirm-no,
//   data-confirm-live="running": the topic's live figure, shown as "31 requests are running."
// Without this script the form is sent at once.

const settled = new WeakSet();

/** Whether the submit may go on; otherwise the question is shown, and yes sends the form again. */
export function answered(event) {
  const { target: form, submitter: button } = event;
  if (settled.delete(form)) return true;
  const dialog = document.getElementById('confirm-dialog');
  if (!dialog) return true;
  event.preventDefault();
  fill(dialog, button);
  dialog.querySelector('#confirm-yes').onclick = () => {
    dialog.close();
    settled.add(form);
    form.requestSubmit(button);
  };
  dialog.showModal();
  return false;
}

function fill(dialog, button) {
  const { confirm, confirmText, confirmYes, confirmNo, confirmLive } = button.dataset;
  dialog.querySelector('#confirm-title').textContent = confirm;
  dialog.querySelector('#confirm-text').textContent = confirmText;
  dialog.querySelector('#confirm-yes').textContent = confirmYes;
  dialog.querySelector('#confirm-no').textContent = confirmNo;
  const live = dialog.querySelector('#confirm-live');
  const figure = confirmLive && document.querySelector(`main [data-live="${confirmLive}"]`);
  const count = figure ? Number.parseInt(figure.textContent.replaceAll(',', ''), 10) : Number.NaN;
  live.hidden = Number.isNaN(count);
  if (!live.hidden) live.textContent = count === 1 ? '1 request is running.' : `${count} requests are running.`;
}
