// Names the class under the pointer over the overlay, from small labels that come with a result.
const tip = document.createElement("div");
tip.className = "wm-tip";
document.body.append(tip);
let labels = null;

function load() {
  labels = null;
  if (!props.value) return;
  const picture = new Image();
  picture.onload = () => {
    const canvas = document.createElement("canvas");
    canvas.width = picture.width;
    canvas.height = picture.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    labels = context.getImageData(0, 0, canvas.width, canvas.height);
  };
  picture.src = props.value.labels;
}
watch("value", load);
load();

document.addEventListener("pointermove", (event) => {
  const shown = event.target.closest && event.target.closest("#wm-overlay");
  const picture = shown && shown.querySelector("img");
  tip.style.display = "none";
  if (!picture || !labels || !props.value) return;
  const box = picture.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * labels.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * labels.height);
  if (x < 0 || y < 0 || x >= labels.width || y >= labels.height) return;
  const at = 4 * (y * labels.width + x);
  const label = labels.data[at] + 256 * labels.data[at + 1];
  tip.textContent = props.value.names[label];
  tip.style.setProperty("--colour", label ? props.value.colours[label] : "transparent");
  tip.style.display = "block";
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = event.clientY + 16 + "px";
});
