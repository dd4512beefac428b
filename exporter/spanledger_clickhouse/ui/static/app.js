// Draws the charts, and sends a dropped invoice. Everything else is plain HTML.
"use strict";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const usd = (value) => value == null ? "-" : "$" + value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: Math.abs(value) < 1 ? 4 : 2 });

const STYLES = {
  area: () => ({ stroke: color("--accent"), fill: color("--accent-soft"), width: 2 }),
  bar: () => ({ stroke: color("--accent"), fill: color("--accent"), width: 0, paths: uPlot.paths.bars({ size: [0.7, 40] }) }),
  line: () => ({ stroke: color("--limit"), width: 2 }),
  dash: () => ({ stroke: color("--accent"), width: 2, dash: [6, 4] }),
  course: (number) => ({ stroke: color(`--course-${number + 1}`), width: 2, dash: [[], [8, 4], [2, 3], [10, 3, 2, 3], [4, 4]][number] }),
  band: () => ({ stroke: color("--faint"), width: 1, dash: [2, 3] }),
};

function draw(element) {
  const data = JSON.parse(element.querySelector("script").textContent);
  const text = color("--text"), grid = color("--grid");
  const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
  const plot = new uPlot({
    width: element.clientWidth, height: 240, tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "UTC"),
    scales: { x: { time: true, range: (_, first, last) => [first - 43200, last + 43200] }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.05 : 1] } },
    axes: [axis, { ...axis, size: 84, values: (_, values) => values.map((v) => usd(v).replace(/\.00$/, "")) }],
    series: [{ label: "day", value: "{YYYY}-{MM}-{DD}" }, ...data.series.map((s, number) => ({ label: s.label, value: (_, v) => usd(v), points: { show: false }, ...STYLES[s.kind](number) }))],
  }, [data.x, ...data.series.map((s) => s.values)], element);
  new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: 240 })).observe(element);
  return plot;
}

let plots = [];
const drawAll = () => {
  plots.forEach((plot) => plot.destroy());
  plots = [...document.querySelectorAll(".chart")].map(draw);
};
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

const later = document.getElementById("later");
if (later) { // the page came before its figures
  fetch(location.href, { headers: { "x-spanledger-page": later.dataset.key } })
    .then((answer) => answer.text())
    .then((text) => {
      const made = new DOMParser().parseFromString(text, "text/html"); // made by the server, with every value escaped
      const main = made.querySelector("main");
      if (!main) throw new Error(text.slice(0, 200));
      document.title = made.title;
      document.querySelector("main").replaceWith(main);
      drawAll();
    })
    .catch((error) => {
      later.textContent = `The figures could not be fetched: ${error.message}. Is spanledger ui still running?`;
      later.className = "error";
    });
}

const form = document.getElementById("upload");
if (form) {
  const input = document.getElementById("file"), result = document.getElementById("result");
  const send = async (file) => {
    result.textContent = `Comparing ${file.name} ...`;
    try {
      const provider = encodeURIComponent(document.getElementById("provider").value);
      const answer = await fetch(`/invoice?provider=${provider}`, { method: "POST", body: file, headers: { "x-spanledger-upload": "1" } });
      const text = await answer.text();
      if (answer.ok) result.innerHTML = text; // made by the server, with every value escaped
      else { result.textContent = text; result.className = "error"; return; }
      result.className = "";
    } catch (error) {
      result.textContent = `The file could not be sent: ${error.message}. Is spanledger ui still running?`;
      result.className = "error";
    }
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("change", () => input.files[0] && send(input.files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => { event.preventDefault(); if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]); });
}
