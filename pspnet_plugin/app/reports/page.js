'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const several = data.checkpoints.length > 1;
const NONE = 65535;  // the value of pixels that have no class in a label map
const WRONG = [230, 30, 30];
const STEP = 24;  // cards that are added at a time
const byId = id => document.getElementById(id);

function element(kind, text, parent) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function percent(value, digits = 1) {
  return value === null || value === undefined ? '–' : (100 * value).toFixed(digits);
}

// --- pictures ------------------------------------------------------------------------------------

async function decoded(kind, text) {
  const image = new Image();
  image.src = `data:image/${kind};base64,${text}`;
  await image.decode();
  return image;
}

function pixelsOf(image, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  pen.imageSmoothingEnabled = image.smooth !== false;
  pen.drawImage(image, 0, 0, width, height);
  return pen.getImageData(0, 0, width, height);
}

// Class numbers of an encoded label map, scaled to the size of the picture.
async function labelsOf(text, width, height) {
  const image = await decoded('png', text);
  image.smooth = false;
  const pixels = pixelsOf(image, width, height).data;
  const labels = new Uint16Array(width * height);
  for (let n = 0; n < labels.length; n++) labels[n] = pixels[4 * n] | pixels[4 * n + 1] << 8;
  return labels;
}

function paint(canvas, picture, opacity, colourOf) {
  const painted = new ImageData(new Uint8ClampedArray(picture.data), picture.width, picture.height);
  const pixels = painted.data;
  for (let n = 0; colourOf && n < pixels.length / 4; n++) {
    const colour = colourOf(n);
    if (!colour) continue;
    for (let c = 0; c < 3; c++) {
      pixels[4 * n + c] = (1 - opacity) * pixels[4 * n + c] + opacity * colour[c];
    }
  }
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext('2d').putImageData(painted, 0, 0);
}

// Canvases with the image, its label, and prediction and difference of each checkpoint.
function viewsOf(item, parent) {
  const titles = ['image', 'label'];
  data.checkpoints.forEach((name, k) => {
    const which = several ? ` ${k + 1}` : '';
    titles.push(`prediction${which}`, `difference${which}`);
  });
  const canvases = titles.map(title => {
    const view = element('div', undefined, parent);
    view.className = 'view';
    const canvas = element('canvas', undefined, view);
    [canvas.width, canvas.height] = item.size;
    element('span', title, view);
    return canvas;
  });
  return {canvases, parts: null};
}

async function fill(item, views, opacity, box) {
  if (!views.parts) {
    const image = await decoded('webp', item.image);
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    const maps = [item.label, ...item.predictions].map(text => labelsOf(text, width, height));
    views.parts = [pixelsOf(image, width, height), await Promise.all(maps)];
  }
  const [picture, [label, ...predictions]] = views.parts;
  const [shown, ...others] = views.canvases;
  paint(shown, picture, 0, null);
  paint(others[0], picture, opacity, n => data.palette[label[n]]);
  predictions.forEach((prediction, k) => {
    paint(others[2 * k + 1], picture, opacity, n => data.palette[prediction[n]]);
    paint(others[2 * k + 2], picture, Math.max(opacity, .6),
          n => label[n] === NONE || prediction[n] === NONE ? null : label[n] === prediction[n] ? [255, 255, 255] : WRONG);
  });
  if (box) for (const canvas of views.canvases) frame(canvas, item, box);
}

function frame(canvas, item, [left, top, width, height]) {
  const pen = canvas.getContext('2d');
  const scale = canvas.width / item.size[0];
  pen.lineWidth = Math.max(1, canvas.width / 200);
  pen.strokeStyle = '#ff00ff';
  const margin = 2 * pen.lineWidth;
  pen.strokeRect(left * scale - margin, top * scale - margin, width * scale + 2 * margin, height * scale + 2 * margin);
}

function showLegend(parent, numbers) {
  parent.replaceChildren();
  for (const number of numbers) {
    const entry = element('span', undefined, parent);
    element('i', undefined, entry).style.background = `rgb(${data.palette[number]})`;
    entry.append(data.classes[number]);
  }
}

// --- the list of images --------------------------------------------------------------------------

const smallest = (a, b) => (a ?? 2) - (b ?? 2);  // images without a value come last
// By how much checkpoint 2 is better; null where one of them has no value.
const change = (item, value) => {
  const [first, second] = [value(item, 0), value(item, 1)];
  return first == null || second == null ? null : second - first;
};
const ORDERS = {
  'worst IoU first': (a, b, value) => smallest(value(a, 0), value(b, 0)),
  'best IoU first': (a, b, value) => (value(b, 0) ?? -1) - (value(a, 0) ?? -1),
  'fewest right pixels first': (a, b) => smallest(a.accuracy[0], b.accuracy[0]),
  'name': (a, b) => a.name < b.name ? -1 : 1,
};
if (several) {
  ORDERS['2 worse than 1 first'] = (a, b, value) => smallest(change(a, value), change(b, value));
  ORDERS['2 better than 1 first'] = (a, b, value) => (change(b, value) ?? -2) - (change(a, value) ?? -2);
}
const shown = {items: [], cards: 0};

function arrange() {
  const number = byId('class').value;
  const search = byId('search').value.toLowerCase();
  const value = (item, k) => number === '' ? item.iou[k] : item.ious[k][number];
  shown.items = data.images.filter(item =>
    item.name.toLowerCase().includes(search)
    && (number === '' || item.ious.some(ious => number in ious)));
  const order = ORDERS[byId('order').value];
  shown.items.sort((a, b) => order(a, b, value));
  shown.cards = 0;
  byId('cards').replaceChildren();
  byId('count').textContent = `${shown.items.length} of ${data.images.length} images`;
  addCards();
}

function numbersOf(item) {
  const number = byId('class').value;
  const told = item.iou.map(iou => percent(iou)).join(' / ');
  const ofClass = item.ious.map(ious => percent(ious[number])).join(' / ');
  return `IoU ${told}` + (number === '' ? '' : `, ${data.classes[number]} ${ofClass}`);
}

function addCards() {
  for (const item of shown.items.slice(shown.cards, shown.cards + STEP)) {
    const card = element('article', undefined, byId('cards'));
    card.className = 'card';
    card.tabIndex = 0;
    const header = element('header', undefined, card);
    element('span', item.name, header).title = item.name;
    element('span', numbersOf(item), header);
    const row = element('div', undefined, card);
    row.className = 'views';
    const views = viewsOf(item, row);
    card.onclick = () => enlarge(item);
    card.onkeydown = event => event.key === 'Enter' && enlarge(item);
    seen.observe(card);
    let filled;
    card.fill = () => filled ??= fill(item, views, .6).then(() => views.parts = null);
  }
  shown.cards = Math.min(shown.cards + STEP, shown.items.length);
}

// Pictures are decoded when their card comes into sight, and cards are made when the end does.
const seen = new IntersectionObserver(entries => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    entry.target.fill();
  }
}, {rootMargin: '300px'});
new IntersectionObserver(entries => entries[0].isIntersecting && addCards(), {rootMargin: '800px'})
  .observe(byId('more'));

// A printer gets what is there: all cards have to be filled before.
async function printAll() {
  while (shown.cards < shown.items.length) addCards();
  for (const card of byId('cards').children) await card.fill();
  print();
}
byId('print').onclick = printAll;
onkeydown = event => {
  if (!(event.ctrlKey || event.metaKey) || event.key !== 'p') return;
  event.preventDefault();
  printAll();
};

// --- one image, large ----------------------------------------------------------------------------

let large = null;

function enlarge(item, box) {
  const parent = byId('large-views');
  parent.replaceChildren();
  large = {item, box, views: viewsOf(item, parent)};
  byId('large-name').textContent = item.name;
  byId('large-numbers').textContent = `IoU ${item.iou.map(iou => percent(iou)).join(' / ')}, right pixels ${item.accuracy.map(part => percent(part)).join(' / ')} %`;
  const present = Object.keys(Object.assign({}, ...item.ious));
  showLegend(byId('large-legend'), present);
  [...byId('large-legend').children].forEach((entry, n) =>
    entry.append(` (IoU ${item.ious.map(ious => percent(ious[present[n]])).join(' / ')})`));
  fill(item, large.views, Number(byId('opacity').value), box);
  if (!byId('large').open) byId('large').showModal();
}

function step(by) {
  const place = shown.items.indexOf(large.item) + by;
  if (place in shown.items) enlarge(shown.items[place]);
}

byId('opacity').oninput = event => fill(large.item, large.views, Number(event.target.value), large.box);
byId('before').onclick = () => step(-1);
byId('after').onclick = () => step(1);
byId('close').onclick = () => byId('large').close();
byId('large').onclick = event => event.target === byId('large') && byId('large').close();
byId('large').onkeydown = event => {
  if (event.target.id === 'opacity') return;
  if (event.key === 'ArrowLeft') step(-1);
  if (event.key === 'ArrowRight') step(1);
};

// --- tables --------------------------------------------------------------------------------------

function sortTable(table, column, heading) {
  const body = table.tBodies[0];
  const text = row => row.cells[column].textContent;
  const descending = heading.dataset.sorted !== 'descending' && column > 0;
  for (const other of table.tHead.rows[0].cells) delete other.dataset.sorted;
  heading.dataset.sorted = descending ? 'descending' : 'ascending';
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [parseFloat(text(a)), parseFloat(text(b))];
    const compared = Number.isNaN(x) || Number.isNaN(y)
      ? (Number.isNaN(x) - Number.isNaN(y)) || text(a).localeCompare(text(b)) : x - y;
    return descending ? -compared : compared;
  });
  body.append(...rows);
}

for (const doubt of data.doubts) {
  const row = element('tr', undefined, byId('doubt-rows'));
  const item = data.images[doubt.image];
  for (const text of [item.name, data.classes[doubt.label], data.classes[doubt.predicted], percent(doubt.confidence), percent(doubt.share, 2)]) {
    element('td', text, row);
  }
  row.onclick = () => enlarge(item, doubt.box);
}
for (const table of document.querySelectorAll('.sortable')) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.onclick = () => sortTable(table, column, heading);
  });
}
for (const order of Object.keys(ORDERS)) element('option', order, byId('order'));
data.classes.forEach((name, number) => element('option', name, byId('class')).value = number);
showLegend(byId('legend'), data.classes.keys());
for (const id of ['order', 'class', 'search']) byId(id).oninput = arrange;
arrange();
