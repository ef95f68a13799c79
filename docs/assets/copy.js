// The copy button of a block with prompts gives what is typed, without "$ ", "> " and the output.
function typed(text) {
  const lines = [];
  let inside = false;
  for (const line of text.split("\n")) {
    const first = line.startsWith("$ ");
    inside = first || (inside && line.startsWith("> "));
    if (inside) lines.push(line.slice(2));
  }
  return lines.join("\n");
}

for (const code of document.querySelectorAll(".language-console code")) {
  code.setAttribute("data-copy", typed(code.textContent));
}
