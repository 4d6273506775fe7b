// Vite's default for workers is one classic script: what linrec loads later must end up inside it.
const worker = new Worker(new URL("./worker.js", import.meta.url));
worker.onmessage = ({ data }) => {
  document.getElementById("client").textContent = data;
};
