"use strict";
// Three axes of points on a plain canvas: drag or arrow keys turn it, + and - zoom, a point under the pointer says its name.
{
  const { points, axes, colours } = JSON.parse(document.getElementById("points").textContent);
  const canvas = document.getElementById("scatter"), context = canvas.getContext("2d"), said = document.getElementById("said");
  const ranges = axes.map((axis, a) => {
    const values = points.map((point) => (axis.log ? Math.log10(point.at[a]) : point.at[a]));
    const low = Math.min(...values), high = Math.max(...values), room = (high - low || Math.abs(high) || 1) * 0.08;
    return [low - room, high + room];
  });
  const place = (value, a) => ((axes[a].log ? Math.log10(value) : value) - ranges[a][0]) / (ranges[a][1] - ranges[a][0]) - 0.5;
  const view = { yaw: -0.7, pitch: 0.45, zoom: 1, chosen: -1 };
  let drawn = [];

  // x to the right, y to the back, z up.
  function project([x, y, z], W, H) {
    const [s, c, t, d] = [Math.sin(view.yaw), Math.cos(view.yaw), Math.sin(view.pitch), Math.cos(view.pitch)];
    const across = x * c - y * s, back = x * s + y * c, size = view.zoom * Math.min(W, H) * 0.62;
    return [W / 2 + across * size, H / 2 - (z * d + back * t) * size, back * d - z * t];
  }

  const short = (v) => (v >= 1e9 ? `${+(v / 1e9).toPrecision(3)} G` : v >= 1e6 ? `${+(v / 1e6).toPrecision(3)} M` : v >= 1e3 ? `${+(v / 1e3).toPrecision(3)} k` : `${+v.toPrecision(3)}`);
  const ticks = (a) => [0.1, 0.5, 0.9].map((share) => {
    const value = ranges[a][0] + share * (ranges[a][1] - ranges[a][0]);
    return [axes[a].log ? 10 ** value : value, share - 0.5];
  });

  function draw() {
    const scale = Math.min(2, devicePixelRatio || 1), W = canvas.clientWidth, H = canvas.clientHeight;
    canvas.width = W * scale;
    canvas.height = H * scale;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const style = getComputedStyle(canvas);
    context.font = "12px system-ui, sans-serif";
    const line = (a, b, alpha) => {
      const [p, q] = [project(a, W, H), project(b, W, H)];
      context.globalAlpha = alpha;
      context.beginPath();
      context.moveTo(p[0], p[1]);
      context.lineTo(q[0], q[1]);
      context.stroke();
      context.globalAlpha = 1;
    };
    const write = (text, at, align = "center") => {
      const [x, y] = project(at, W, H);
      context.textAlign = align;
      context.fillStyle = style.color;
      context.fillText(text, Math.min(W - 4, Math.max(4, x)), y);
    };
    context.strokeStyle = style.color;
    for (const share of [-0.5, -0.25, 0, 0.25, 0.5]) {
      line([share, -0.5, -0.5], [share, 0.5, -0.5], 0.2);
      line([-0.5, share, -0.5], [0.5, share, -0.5], 0.2);
    }
    line([-0.5, -0.5, -0.5], [0.5, -0.5, -0.5], 0.8);
    line([0.5, -0.5, -0.5], [0.5, 0.5, -0.5], 0.8);
    line([-0.5, -0.5, -0.5], [-0.5, -0.5, 0.5], 0.8);
    for (const [value, at] of ticks(0)) write(short(value), [at, -0.58, -0.54]);
    for (const [value, at] of ticks(1)) write(short(value), [0.6, at, -0.52]);
    for (const [value, at] of ticks(2)) write(value.toFixed(3), [-0.56, -0.56, at], "right");
    write(axes[0].name, [0, -0.72, -0.62]);
    write(axes[1].name, [0.78, 0, -0.58]);
    write(axes[2].name, [-0.5, -0.5, 0.58]);
    drawn = points.map((point, i) => ({ i, at: point.at.map(place) }));
    drawn.forEach((one) => (one.screen = project(one.at, W, H)));
    drawn.sort((p, q) => q.screen[2] - p.screen[2]);
    for (const { i, at, screen: [x, y] } of drawn) {
      const colour = colours[points[i].colour % colours.length];
      context.strokeStyle = colour;
      line(at, [at[0], at[1], -0.5], 0.45); // where it stands on the floor
      context.fillStyle = colour;
      context.beginPath();
      context.arc(x, y, i === view.chosen ? 8 : 5.5, 0, 7);
      context.fill();
      if (i === view.chosen) {
        context.strokeStyle = style.color;
        context.stroke();
      }
    }
    const point = points[view.chosen];
    said.textContent = point ? `${point.name}: ${axes.map((axis, a) => `${axis.name} ${a < 2 ? short(point.at[a]) : point.at[a].toFixed(4)}`).join(", ")}` : "";
  }

  let last = null;
  canvas.onpointerdown = (event) => {
    last = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => {
    if (last) {
      view.yaw += (event.clientX - last[0]) / 150;
      view.pitch = Math.min(1.5, Math.max(0, view.pitch + (event.clientY - last[1]) / 150));
      last = [event.clientX, event.clientY];
    } else {
      const near = drawn.map(({ i, screen }) => [Math.hypot(screen[0] - event.offsetX, screen[1] - event.offsetY), i]).sort((p, q) => p[0] - q[0]);
      view.chosen = near.length && near[0][0] < 14 ? near[0][1] : -1;
    }
    draw();
  };
  canvas.onpointerup = canvas.onpointercancel = () => (last = null);
  canvas.onkeydown = (event) => {
    const turn = { ArrowLeft: ["yaw", -0.1], ArrowRight: ["yaw", 0.1], ArrowUp: ["pitch", 0.08], ArrowDown: ["pitch", -0.08] }[event.key];
    if (turn) view[turn[0]] = turn[0] === "pitch" ? Math.min(1.5, Math.max(0, view.pitch + turn[1])) : view.yaw + turn[1];
    else if (event.key === "+" || event.key === "-") view.zoom *= event.key === "+" ? 1.1 : 1 / 1.1;
    else if (event.key === "n" || event.key === "N") view.chosen = (view.chosen + (event.key === "n" ? 1 : points.length - 1)) % points.length;
    else return;
    event.preventDefault();
    draw();
  };
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
