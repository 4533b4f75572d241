// A picture opens in full size when it is clicked.
addEventListener("click", (event) => {
  if (event.target.matches(".md-content img")) open(event.target.src, "_self");
});
