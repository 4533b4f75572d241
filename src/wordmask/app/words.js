// A box of words: Enter or ";" ends a word, "," separates its synonyms, which stand beneath it.
const box = element.querySelector(".wm-tags");
const input = document.createElement("input");
input.type = "text";
input.enterKeyHint = "done";
input.autocapitalize = "none";
input.setAttribute("aria-label", box.dataset.label);
const words = () => props.value || [];

function put(next) {
  props.value = next;
  draw();
  trigger("change");
}

function draw() {
  box.querySelectorAll(".wm-tag").forEach((tag) => tag.remove());
  words().forEach((text, i) => {
    const names = text.split(",").map((name) => name.trim()).filter((name) => name);
    const tag = document.createElement("span");
    tag.className = "wm-tag";
    const word = document.createElement("span");
    word.textContent = names[0];
    tag.append(word);
    if (names.length > 1) {
      const also = document.createElement("small");
      also.textContent = names.slice(1).join(", ");
      word.append(also);
    }
    word.title = "change";
    word.onclick = () => {
      commit();
      const at = words().indexOf(text);
      put(words().filter((_, j) => j !== at));
      input.value = text;
      input.focus();
    };
    const remove = document.createElement("button");
    remove.textContent = "×";
    remove.setAttribute("aria-label", "remove " + names[0]);
    remove.onclick = () => put(words().filter((_, j) => j !== i));
    tag.append(remove);
    box.insertBefore(tag, input);
  });
  input.placeholder = words().length ? "another word" : box.dataset.placeholder;
}

function commit() {
  const clean = (text) => text.split(",").map((x) => x.trim()).filter((x) => x).join(", ");
  const typed = input.value.split(/[;\n]/).map(clean).filter((text) => text);
  input.value = "";
  if (typed.length) put([...words(), ...typed]);
}

input.addEventListener("keydown", (event) => {
  if ((event.key === "Enter" && !event.isComposing) || event.key === ";") {
    event.preventDefault();
    commit();
  } else if (event.key === "Backspace" && !input.value && words().length) {
    put(words().slice(0, -1));
  }
});
input.addEventListener("blur", commit);
input.addEventListener("paste", () => setTimeout(() => input.value.includes(";") && commit()));
box.addEventListener("click", (event) => event.target === box && input.focus());
box.append(input);
watch("value", draw);
draw();
