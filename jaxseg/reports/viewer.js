"use strict";
// The viewer of cases. A case is a volume [X, Y, Z] (right to left, front to back, feet to head) shown in three planes, or a
// picture [X, Y, 1]. Image, truth and predictions lie in the page as mosaics: slices [Y, X] side by side, row after row.
{
  const about = JSON.parse(document.getElementById("cases").textContent);
  const $ = (name) => document.getElementById(name);
  const el = (tag, attributes = {}, ...inside) => {
    const node = Object.assign(document.createElement(tag), attributes);
    node.append(...inside);
    return node;
  };
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const colours = about.colours.map(rgb);
  const ERRORS = { missed: [86, 180, 233], extra: [213, 94, 0], confused: [204, 121, 167] };
  const PLANES = [
    { name: "axial", u: 0, v: 1, f: 2, up: false, letters: "RLAP" },
    { name: "coronal", u: 0, v: 2, f: 1, up: true, letters: "RLSI" },
    { name: "sagittal", u: 1, v: 2, f: 0, up: true, letters: "APSI" },
  ];
  const state = { case: null, at: [0, 0, 0], image: null, truth: null, labels: null, ask: 0 };
  const layers = { truth: $("truth"), prediction: $("prediction"), errors: $("errors"), opacity: $("opacity") };
  const level = $("level"), width = $("width"), model = $("model");
  const holder = $("planes");
  let shown = [];

  // A mosaic -> bytes [X Y Z * channels]. It is drawn strip by strip: phones limit the size of a canvas.
  async function decode(uri, [X, Y, Z], columns, channels) {
    const picture = new Image();
    picture.src = uri;
    await picture.decode();
    const values = new Uint8Array(X * Y * Z * channels);
    const canvas = el("canvas", { width: X * columns, height: Y });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    for (let row = 0; row * columns < Z; row++) {
      context.clearRect(0, 0, canvas.width, Y);
      context.drawImage(picture, 0, -row * Y);
      const pixels = context.getImageData(0, 0, canvas.width, Y).data;
      for (let column = 0; column < columns && row * columns + column < Z; column++) {
        const z = row * columns + column;
        for (let y = 0; y < Y; y++) {
          let from = 4 * (y * canvas.width + column * X), to = channels * X * (y + Y * z);
          const end = to + channels * X;
          if (channels === 1) for (; to < end; from += 4) values[to++] = pixels[from];
          else for (; to < end; from += 4) for (let c = 0; c < 3; c++) values[to++] = pixels[from + c];
        }
      }
      if (row % 4 === 3) await new Promise((resolve) => setTimeout(resolve));
    }
    return values;
  }

  // Where a plane's slice lies in the arrays: voxel (u, v) of it is at first + u * right + v * down.
  const strides = (plane) => {
    const steps = [1, state.case.size[0], state.case.size[0] * state.case.size[1]];
    return { first: state.at[plane.f] * steps[plane.f], right: steps[plane.u], down: steps[plane.v] };
  };

  function paint(plane) {
    const { size, spacing, channels } = state.case, W = size[plane.u], H = size[plane.v], context = plane.context;
    const scale = Math.min(2, devicePixelRatio || 1);
    const across = Math.max(1, Math.round(plane.canvas.clientWidth * scale));
    const down = Math.max(1, Math.round((across * H * spacing[plane.v]) / (W * spacing[plane.u])));
    if (plane.canvas.width !== across || plane.canvas.height !== down) Object.assign(plane.canvas, { width: across, height: down });
    const grey = new ImageData(W, H), fill = new ImageData(W, H);
    const low = level.valueAsNumber - width.valueAsNumber / 2, gain = 255 / width.valueAsNumber;
    const alpha = 255 * layers.opacity.valueAsNumber, lie = strides(plane);
    const errors = layers.errors.checked, predicted = layers.prediction.checked;
    for (let row = 0, k = 0; row < H; row++) {
      const v = plane.up ? H - 1 - row : row;
      for (let u = 0; u < W; u++, k += 4) {
        const i = lie.first + u * lie.right + v * lie.down;
        if (channels === 1) grey.data[k] = grey.data[k + 1] = grey.data[k + 2] = (state.image[i] - low) * gain;
        else for (let c = 0; c < 3; c++) grey.data[k + c] = (state.image[3 * i + c] - low) * gain;
        grey.data[k + 3] = 255;
        const t = state.truth[i], p = state.labels[i];
        let colour = null;
        if (errors) colour = t === p ? null : !p ? ERRORS.missed : !t ? ERRORS.extra : ERRORS.confused;
        else if (predicted && p) colour = colours[(p - 1) % colours.length];
        if (colour) {
          fill.data.set(colour, k);
          fill.data[k + 3] = alpha;
        }
      }
    }
    const draw = (data, smooth) => {
      const small = el("canvas", { width: W, height: H });
      small.getContext("2d").putImageData(data, 0, 0);
      context.imageSmoothingEnabled = smooth;
      context.imageSmoothingQuality = "high";
      context.drawImage(small, 0, 0, across, down);
    };
    draw(grey, true);
    draw(fill, false);
    if (layers.truth.checked) outline(plane, W, H, across / W, down / H, scale);
    if (plane.f !== 2 || size[2] > 1) cross(plane, W, H, across, down);
    letters(plane, across, down, scale);
    plane.slider.value = state.at[plane.f];
  }

  // The truth's edge between pixels, a path for each class with a dark line below it.
  function outline(plane, W, H, sx, sy, scale) {
    const paths = new Map(), lie = strides(plane);
    const truth = (u, row) => state.truth[lie.first + u * lie.right + (plane.up ? H - 1 - row : row) * lie.down];
    const path = (k) => paths.get(k) ?? paths.set(k, new Path2D()).get(k);
    for (let row = 0; row < H; row++)
      for (let u = 0; u < W; u++) {
        const here = truth(u, row), right = u + 1 < W ? truth(u + 1, row) : 0, below = row + 1 < H ? truth(u, row + 1) : 0;
        for (const [other, x0, y0, x1, y1] of [[right, u + 1, row, u + 1, row + 1], [below, u, row + 1, u + 1, row + 1]])
          if (here !== other) {
            const p = path(here || other);
            p.moveTo(x0 * sx, y0 * sy);
            p.lineTo(x1 * sx, y1 * sy);
          }
      }
    plane.context.lineCap = "round";
    for (const [colour, wide] of [["rgba(0,0,0,.6)", 3.4], [null, 1.7]])
      for (const [k, p] of paths) {
        plane.context.strokeStyle = colour ?? about.colours[(k - 1) % about.colours.length];
        plane.context.lineWidth = wide * scale;
        plane.context.stroke(p);
      }
  }

  function cross(plane, W, H, across, down) {
    const context = plane.context, x = ((state.at[plane.u] + 0.5) / W) * across;
    const row = plane.up ? H - 1 - state.at[plane.v] : state.at[plane.v], y = ((row + 0.5) / H) * down;
    context.strokeStyle = "rgba(255,255,255,.35)";
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, down);
    context.moveTo(0, y);
    context.lineTo(across, y);
    context.stroke();
  }

  function letters(plane, across, down, scale) {
    const text = state.case.letters.length === 4 ? state.case.letters : state.case.letters ? plane.letters : "";
    const context = plane.context, edge = 11 * scale;
    context.font = `600 ${13 * scale}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 3 * scale;
    context.strokeStyle = "rgba(0,0,0,.8)";
    context.fillStyle = "#fff";
    const places = [[edge, down / 2], [across - edge, down / 2], [across / 2, edge], [across / 2, down - edge]];
    [...text].forEach((letter, i) => {
      context.strokeText(letter, ...places[i]);
      context.fillText(letter, ...places[i]);
    });
  }

  let waiting = false;
  function draw() {
    if (waiting || !state.image) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      shown.forEach(paint);
      say();
      holder.dataset.drawn = Number(holder.dataset.drawn ?? 0) + 1; // for those who drive the page
    });
  }

  function say() {
    const { size, spacing, channels } = state.case, [x, y, z] = state.at, i = x + size[0] * (y + size[1] * z);
    const name = (k) => (k ? about.classes[k - 1] ?? `class ${k}` : "background");
    const grey = channels > 1 ? [...state.image.slice(3 * i, 3 * i + 3)].join(", ") : state.image[i];
    const place = size[2] > 1 ? `voxel ${x + 1}, ${y + 1}, ${z + 1} of ${size.join(" x ")}` : `pixel ${x + 1}, ${y + 1} of ${size[0]} x ${size[1]}`;
    const unit = state.case.letters ? ` (${spacing.slice(0, size[2] > 1 ? 3 : 2).map((s) => +s.toFixed(2)).join(" x ")} mm)` : "";
    $("where").textContent = `${place}${unit}; grey ${grey}; truth: ${name(state.truth[i])}; prediction: ${name(state.labels[i])}`;
  }

  function move(axis, by) {
    const last = state.case.size[axis] - 1;
    state.at[axis] = Math.min(last, Math.max(0, state.at[axis] + by));
    draw();
  }

  function build() {
    const single = state.case.size[2] === 1;
    holder.classList.toggle("single", single);
    shown = (single ? PLANES.slice(0, 1) : PLANES).map((plane) => ({ ...plane }));
    holder.replaceChildren(...shown.map((plane) => {
      const { size, spacing } = state.case;
      plane.canvas = el("canvas", { tabIndex: 0 });
      plane.canvas.setAttribute("role", "img");
      const what = single ? "picture" : `${plane.name} slice`;
      const keys = single ? "arrow keys move the cursor, page up and page down change the case" : "arrow keys move, page up and page down change the slice";
      plane.canvas.setAttribute("aria-label", `${what} of ${state.case.title}; ${state.case.words}; ${keys}`);
      plane.canvas.style.aspectRatio = `${size[plane.u] * spacing[plane.u]} / ${size[plane.v] * spacing[plane.v]}`;
      plane.context = plane.canvas.getContext("2d");
      plane.slider = el("input", { type: "range", min: 0, max: size[plane.f] - 1, value: state.at[plane.f] });
      plane.slider.setAttribute("aria-label", `${plane.name} slice`);
      plane.slider.oninput = () => move(plane.f, plane.slider.valueAsNumber - state.at[plane.f]);
      const point = (event) => {
        const box = plane.canvas.getBoundingClientRect();
        const u = Math.floor(((event.clientX - box.left) / box.width) * size[plane.u]);
        const row = Math.floor(((event.clientY - box.top) / box.height) * size[plane.v]);
        move(plane.u, u - state.at[plane.u]);
        move(plane.v, (plane.up ? size[plane.v] - 1 - row : row) - state.at[plane.v]);
      };
      plane.canvas.onpointerdown = point;
      plane.canvas.onpointermove = (event) => event.buttons && point(event);
      plane.canvas.addEventListener("wheel", (event) => {
        if (document.activeElement !== plane.canvas || single) return; // else the page scrolls
        event.preventDefault();
        move(plane.f, -Math.sign(event.deltaY));
      }, { passive: false });
      plane.canvas.onkeydown = (event) => {
        const up = plane.up ? 1 : -1, far = event.shiftKey ? 10 : 1;
        const steps = { ArrowLeft: [plane.u, -1], ArrowRight: [plane.u, 1], ArrowUp: [plane.v, up], ArrowDown: [plane.v, -up] };
        if (!single) Object.assign(steps, { PageUp: [plane.f, 1], PageDown: [plane.f, -1] });
        if (steps[event.key]) move(steps[event.key][0], steps[event.key][1] * far);
        else if (single && event.key.startsWith("Page")) turn(event.key === "PageUp" ? -1 : 1);
        else return;
        event.preventDefault();
      };
      const caption = el("figcaption", {}, single ? "" : plane.name);
      if (!single) caption.append(plane.slider);
      return el("figure", {}, plane.canvas, caption);
    }));
  }

  function legend() {
    const row = (colour, words) => {
      const square = el("i");
      square.style.background = colour;
      return el("li", {}, square, words);
    };
    const css = (c) => `rgb(${c.join(",")})`;
    $("legend").replaceChildren(...(layers.errors.checked
      ? [row(css(ERRORS.missed), "missed"), row(css(ERRORS.extra), "predicted where nothing is"), row(css(ERRORS.confused), "wrong class")]
      : about.classes.map((name, k) => row(about.colours[k % about.colours.length], name))), "line: truth, filled: prediction");
  }

  async function show(number, focus) {
    const ask = ++state.ask, one = about.cases[number], before = state.case;
    $("case").value = number;
    const pixels = JSON.parse($(`pixels-${number}`).textContent);
    const channels = one.colour ? 3 : 1, names = Object.keys(pixels.predictions);
    if (model && !names.includes(model.value)) model.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    const which = model && names.includes(model.value) ? model.value : names[0];
    const [image, truth, labels] = await Promise.all([
      decode(pixels.image, one.size, one.columns, channels),
      decode(pixels.truth, one.size, one.columns, 1),
      decode(pixels.predictions[which], one.size, one.columns, 1),
    ]);
    if (ask !== state.ask) return; // another one was asked for meanwhile
    Object.assign(state, { case: { ...one, channels }, image, truth, labels });
    if (before?.number !== number) {
      state.at = worst();
      state.case.number = number;
      build();
    }
    state.case.number = number;
    $("words").textContent = one.words;
    legend();
    draw();
    document.dispatchEvent(new CustomEvent("case", { detail: { size: one.size, spacing: one.spacing, truth, labels } }));
    if (focus) shown[0].canvas.focus({ preventScroll: true });
    document.body.dataset.shows = number;
  }

  // Where most is wrong along each axis; of a perfect case where most is.
  function worst() {
    const [X, Y, Z] = state.case.size, counts = [X, Y, Z].map((n) => new Float64Array(n));
    for (const wrong of [true, false]) {
      for (let z = 0, i = 0; z < Z; z++)
        for (let y = 0; y < Y; y++)
          for (let x = 0; x < X; x++, i++)
            if (wrong ? state.truth[i] !== state.labels[i] : state.truth[i]) {
              counts[0][x]++;
              counts[1][y]++;
              counts[2][z]++;
            }
      if (counts[2].some((n) => n)) break;
    }
    return counts.map((c, axis) => (c.some((n) => n) ? c.indexOf(Math.max(...c)) : state.case.size[axis] >> 1));
  }

  const turn = (by) => show((Number($("case").value) + by + about.cases.length) % about.cases.length, true);
  $("case").onchange = () => show(Number($("case").value));
  if (model) model.onchange = () => show(Number($("case").value));
  $("before").onclick = () => turn(-1);
  $("after").onclick = () => turn(1);
  for (const input of [...Object.values(layers), level, width]) input.addEventListener("input", () => { legend(); draw(); });
  $("viewer").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const layer = { t: "truth", p: "prediction", e: "errors" }[event.key];
    if (layer) {
      layers[layer].checked = !layers[layer].checked;
      layers[layer].dispatchEvent(new Event("input"));
    } else if (event.key === "m" && model) {
      model.selectedIndex = (model.selectedIndex + 1) % model.length;
      model.onchange();
    } else if (event.key === "[" || event.key === "]") turn(event.key === "[" ? -1 : 1);
    else return;
    event.preventDefault();
  });
  for (const button of document.querySelectorAll("button[data-case]"))
    button.onclick = () => {
      $("viewer").scrollIntoView();
      show(Number(button.dataset.case), true);
    };
  addEventListener("resize", draw);
  addEventListener("beforeprint", () => state.image && shown.forEach(paint));
  show(0);
}
