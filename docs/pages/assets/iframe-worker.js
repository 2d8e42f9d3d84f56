// Browsers start no worker from a file: address. There, the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.inner = frame.contentWindow;
      window.addEventListener("message", (event) => {
        if (event.source === this.inner) {
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
        }
      });
      this.ready = new Promise((done) => (this.inner.ncfastReady = done));
      this.inner.document.open();
      this.inner.document.write(
        '<body><script>postMessage = (data) => parent.postMessage(data, "*");</script>' +
          `<script src="${url}" onload="ncfastReady()"></script></body>`
      );
      this.inner.document.close();
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
