"use strict";
// Surfaces of truth and prediction of a volume, drawn on a canvas without WebGL. A structure's outer voxels become small discs along
// its surface (Pfister et al. 2000, "Surfels"); volumes with more of them than MOST are thinned first, so that a turn stays smooth.
{
  const MOST = 40000;
  const about = JSON.parse(document.getElementById("cases").textContent);
  const colours = about.colours.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const ERRORS = { missed: [86, 180, 233], extra: [213, 94, 0] };
  const $ = (name) => document.getElementById(name);
  const holder = $("surfaces");
  const view = { turn: 0.5, tilt: 0.25, zoom: 1 };
  let scene = null, panels = [], waiting = false;

  // Labels at every `step`-th voxel inside the box, padded by two empty cells on each side; of one structure or of all (0).
  function thinned(labels, size, low, step, cells, only) {
    const [X, Y] = size, [nx, ny, nz] = cells.map((n) => n + 4), grid = new Uint8Array(nx * ny * nz);
    for (let z = 0; z < cells[2]; z++)
      for (let y = 0; y < cells[1]; y++)
        for (let x = 0; x < cells[0]; x++) {
          const from = low[0] + x * step[0] + X * (low[1] + y * step[1] + Y * (low[2] + z * step[2]));
          grid[x + 2 + nx * (y + 2 + ny * (z + 2))] = only && labels[from] !== only ? 0 : labels[from];
        }
    return grid;
  }

  const outside = (grid, i, strides) => strides.some((s) => !grid[i - s] || !grid[i + s]);

  // Outer cells, eight numbers each: position in mm around the middle and normal, both smoothed over the cells around, the class,
  // and whether the other one has it.
  function discs(grid, other, cells, origin, pitch) {
    const [nx, ny, nz] = cells.map((n) => n + 4), strides = [1, nx, nx * ny], found = [], near = [];
    for (let c = -2; c <= 2; c++)
      for (let b = -2; b <= 2; b++)
        for (let a = -2; a <= 2; a++) near.push([a + nx * (b + ny * c), a / pitch[0], b / pitch[1], c / pitch[2]]);
    const raw = [], number = new Map();
    for (let z = 2; z < nz - 2; z++)
      for (let y = 2; y < ny - 2; y++)
        for (let x = 2; x < nx - 2; x++) {
          const i = x + nx * (y + ny * z);
          if (!grid[i] || !outside(grid, i, strides)) continue;
          const disc = [0, 0, 0, 0, 0, 0];
          [x, y, z].forEach((n, axis) => (disc[axis] = origin[axis] + (n - 2) * pitch[axis]));
          for (const [s, ...away] of near) if (!grid[i + s]) away.forEach((d, axis) => (disc[3 + axis] += d));
          const long = Math.hypot(disc[3], disc[4], disc[5]) || 1;
          for (let axis = 3; axis < 6; axis++) disc[axis] /= long;
          number.set(i, raw.length);
          raw.push([i, disc]);
        }
    for (const [i, disc] of raw) {
      const mean = [0, 0, 0, 0, 0, 0];
      let count = 0;
      for (const [s] of near) {
        const beside = number.get(i + s), one = beside === undefined ? null : raw[beside][1];
        if (!one || one[3] * disc[3] + one[4] * disc[4] + one[5] * disc[5] < 0.3) continue; // the other side of a thin sheet
        for (let k = 0; k < 6; k++) mean[k] += one[k];
        count++;
      }
      const long = Math.hypot(mean[3], mean[4], mean[5]) || 1;
      found.push(...mean.map((v, k) => (k < 3 ? v / Math.max(count, 1) : v / long)), grid[i], other[i] ? 1 : 0);
    }
    return Float32Array.from(found);
  }

  function build({ size, spacing, truth, labels }, only) {
    const low = [...size], high = [-1, -1, -1];
    for (let z = 0, i = 0; z < size[2]; z++)
      for (let y = 0; y < size[1]; y++)
        for (let x = 0; x < size[0]; x++, i++)
          if (truth[i] || labels[i])
            [x, y, z].forEach((n, axis) => {
              low[axis] = Math.min(low[axis], n);
              high[axis] = Math.max(high[axis], n);
            });
    if (high[0] < 0) return null;
    for (let coarse = Math.min(...spacing); ; coarse *= 1.4) {
      const step = spacing.map((s) => Math.max(1, Math.round(coarse / s))), pitch = spacing.map((s, axis) => s * step[axis]);
      const cells = low.map((l, axis) => Math.floor((high[axis] - l) / step[axis]) + 1);
      const grids = [truth, labels].map((one) => thinned(one, size, low, step, cells, only));
      const n = cells.map((c) => c + 4), strides = [1, n[0], n[0] * n[1]];
      const count = (grid) => grid.reduce((sum, k, i) => sum + (k && outside(grid, i, strides) ? 1 : 0), 0);
      if (Math.max(...grids.map(count)) > MOST) continue;
      const middle = low.map((l, axis) => ((l + high[axis]) / 2) * spacing[axis]);
      const origin = low.map((l, axis) => l * spacing[axis] - middle[axis]);
      const [a, b] = [discs(grids[0], grids[1], cells, origin, pitch), discs(grids[1], grids[0], cells, origin, pitch)];
      const half = low.map((l, axis) => ((high[axis] - l + 1) * spacing[axis]) / 2);
      return { truth: a, prediction: b, pitch: Math.max(...pitch), half, reach: Math.hypot(...half) };
    }
  }

  // The patient stands: feet down; without a turn one looks from the front, the right side on the left.
  function axes() {
    const [ct, st, ck, sk] = [Math.cos(view.turn), Math.sin(view.turn), Math.cos(view.tilt), Math.sin(view.tilt)];
    return { right: [ct, st, 0], up: [-st * sk, ct * sk, ck], out: [st * ck, -ct * ck, sk] };
  }
  const dot = (a, x, y, z) => a[0] * x + a[1] * y + a[2] * z;

  function paint(panel) {
    const { canvas, context, name } = panel, scale = Math.min(2, devicePixelRatio || 1);
    const W = Math.max(1, Math.round(canvas.clientWidth * scale)), H = Math.round(W * 0.8);
    if (canvas.width !== W || canvas.height !== H) Object.assign(canvas, { width: W, height: H });
    const picture = context.createImageData(W, H), pixels = new Uint32Array(picture.data.buffer).fill(0xff101010);
    const depth = new Float32Array(W * H).fill(-Infinity);
    const { right, up, out } = axes(), errors = $("errors").checked;
    if (scene) {
      const f = (0.47 * H * view.zoom) / scene.reach, points = scene[name], r = 0.72 * scene.pitch * f;
      const light = [-0.3, 0.45, 0.84];
      for (let k = 0; k < points.length; k += 8) {
        const [x, y, z, u, v, w] = [points[k], points[k + 1], points[k + 2], points[k + 3], points[k + 4], points[k + 5]];
        const facing = dot(out, u, v, w);
        if (facing < -0.1) continue;
        const n0 = dot(right, u, v, w), n1 = dot(up, u, v, w), shade = 0.3 + 0.75 * Math.max(0, n0 * light[0] + n1 * light[1] + facing * light[2]);
        let c = colours[(points[k + 6] - 1) % colours.length];
        if (errors) c = points[k + 7] ? [120, 120, 120] : name === "truth" ? ERRORS.missed : ERRORS.extra;
        const value = (0xff000000 | (Math.min(255, c[2] * shade) << 16) | (Math.min(255, c[1] * shade) << 8) | Math.min(255, c[0] * shade)) >>> 0;
        const px = W / 2 + dot(right, x, y, z) * f, py = H / 2 - dot(up, x, y, z) * f, pz = dot(out, x, y, z) * f;
        const slope = 1 / Math.max(facing, 0.35);
        for (let j = Math.max(0, Math.round(py - r)); j <= Math.min(H - 1, Math.round(py + r)); j++)
          for (let i = Math.max(0, Math.round(px - r)); i <= Math.min(W - 1, Math.round(px + r)); i++) {
            const near = pz - (n0 * (i - px) + n1 * (py - j)) * slope; // the disc's plane
            const at = i + W * j;
            if (near > depth[at]) {
              depth[at] = near;
              pixels[at] = value;
            }
          }
      }
    }
    context.putImageData(picture, 0, 0);
    context.font = `600 ${12 * scale}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillStyle = "#fff";
    if (!scene || !scene[name].length) return context.fillText(`nothing in the ${name}`, W / 2, H / 2);
    const f = (0.47 * H * view.zoom) / scene.reach;
    [..."RLAPIS"].forEach((letter, i) => {
      const end = [0, 0, 0];
      end[i >> 1] = (i % 2 ? 1 : -1) * (scene.half[i >> 1] + 0.07 * scene.reach);
      if (dot(out, ...end) < -0.4 * scene.reach) return; // behind
      context.globalAlpha = 0.85;
      context.fillText(letter, W / 2 + dot(right, ...end) * f, H / 2 - dot(up, ...end) * f);
      context.globalAlpha = 1;
    });
  }

  function draw() {
    if (waiting || !holder.open) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      const begin = performance.now();
      panels.forEach(paint);
      holder.dataset.ms = Math.round(performance.now() - begin);
      holder.dataset.drawn = Number(holder.dataset.drawn ?? 0) + 1; // for those who drive the page
    });
  }

  function change(turn, tilt, zoom) {
    view.turn += turn;
    view.tilt = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, view.tilt + tilt));
    view.zoom = Math.max(0.5, Math.min(6, view.zoom * zoom));
    draw();
  }

  panels = ["truth", "prediction"].map((name) => {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { tabIndex: 0, className: "surface" });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Surface of the ${name}; arrow keys turn it, plus and minus zoom, Home resets the view`);
    let last = null;
    canvas.onpointerdown = (event) => {
      last = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    };
    canvas.onpointermove = (event) => {
      if (!event.buttons || !last) return;
      change(-(event.clientX - last[0]) / 120, (event.clientY - last[1]) / 120, 1);
      last = [event.clientX, event.clientY];
    };
    canvas.onkeydown = (event) => {
      const far = event.shiftKey ? 0.5 : 0.12;
      const steps = { ArrowLeft: [far, 0, 1], ArrowRight: [-far, 0, 1], ArrowUp: [0, far, 1], ArrowDown: [0, -far, 1], "+": [0, 0, 1.15], "-": [0, 0, 1 / 1.15] };
      if (steps[event.key]) change(...steps[event.key]);
      else if (event.key === "Home") {
        Object.assign(view, { turn: 0.5, tilt: 0.25, zoom: 1 });
        draw();
      } else return;
      event.preventDefault();
    };
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = name;
    figure.append(canvas, caption);
    $("surface-pair").append(figure);
    return { name, canvas, context: canvas.getContext("2d") };
  });

  let shown = null, built = null;
  function update() {
    if (!shown || !holder.open) return;
    if (built !== shown) {
      built = shown;
      scene = build(shown, Number($("structure").value));
    }
    draw();
  }
  const option = (value, words) => Object.assign(document.createElement("option"), { value, textContent: words });
  $("structure").append(option(0, "all"), ...about.classes.map((words, k) => option(k + 1, words)));
  $("structure").parentElement.hidden = about.classes.length < 2;
  $("structure").onchange = () => {
    built = null;
    update();
  };
  document.addEventListener("case", (event) => {
    holder.hidden = event.detail.size[2] === 1;
    shown = event.detail;
    setTimeout(update);
  });
  holder.addEventListener("toggle", update);
  addEventListener("resize", draw);
  $("errors").addEventListener("input", draw);
}
