/* A page that was opened from a file may start no worker. The search of the theme then runs in a hidden frame of the
   page, which has what its script asks of a worker: messages to and from it, and importScripts. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.onload = () => this.start(frame, url);
      document.addEventListener("DOMContentLoaded", () => document.body.append(frame), { once: true });
      if (document.body) document.body.append(frame);
    }

    start(frame, url) {
      const inside = frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => Promise.all(urls.map((each) => this.load(inside, each)));
      this.load(inside, url).then(() => {
        this.frame = inside;
        this.waiting.forEach((data) => this.postMessage(data));
      });
    }

    load(inside, url) {
      return new Promise((loaded) => {
        const script = inside.document.createElement("script");
        script.onload = loaded;
        script.src = url;
        inside.document.body.append(script);
      });
    }

    postMessage(data) {
      if (this.frame) this.frame.dispatchEvent(new MessageEvent("message", { data }));
      else this.waiting.push(data);
    }

    terminate() {}
  };
}
