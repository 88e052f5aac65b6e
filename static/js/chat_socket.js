// The playground's WebSocket: opened when first needed, one reply at a time, frames handed to one listener.
export class ChatSocket {
  /** `onFrame(frame)` gets every frame; `onLost()` is called when the connection ends by itself. */
  constructor({ onFrame, onLost }) {
    this.onFrame = onFrame;
    this.onLost = onLost;
    this.socket = null;
    this.opening = null;
  }

  /** Resolves when frames can be sent; rejects when the console does not answer or refuses. */
  open() {
    if (this.isOpen) return Promise.resolve();
    this.opening ??= this.#connect().finally(() => { this.opening = null; });
    return this.opening;
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(frame) {
    this.socket.send(JSON.stringify(frame));
  }

  #connect() {
    const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(`${scheme}//${location.host}/ws/chat/`);
    return new Promise((resolve, reject) => {
      let isOpen = false;
      socket.addEventListener('open', () => {
        isOpen = true;
        this.socket = socket;
        resolve();
      });
      socket.addEventListener('message', (event) => this.onFrame(JSON.parse(event.data)));
      socket.addEventListener('close', () => {
        if (!isOpen) reject(new Error('closed'));
        else this.onLost();
      });
    });
  }
}
