// What is wrong with how a page looks, on the colours and boxes that the browser computed.
(() => {
  const rgba = text => {
    const n = text.match(/[\d.]+/g).map(Number);
    return n.length < 4 ? [...n, 1] : n;
  };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const light = c => {
    const [r, g, b] = c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = e => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) layers.unshift(rgba(getComputedStyle(at).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const ratio = (one, other) => {
    const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  };
  const found = {width: innerWidth, scroll: document.documentElement.scrollWidth, texts: 0, faint: [], wide: [],
    small: [], edges: []};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || e.closest('.hidden, noscript, desc, title, option') || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), below = ground(e);
    const colour = over(rgba(e.closest('svg') ? style.fill : style.color), below);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    found.texts += 1;
    if (ratio(colour, below) < (large ? 3 : 4.5)) found.faint.push([text.slice(0, 30), ratio(colour, below)]);
  }
  for (const e of document.querySelectorAll('input:not([type=range], [type=checkbox]), select, .swatch, .dot')) {
    const style = getComputedStyle(e), at = ground(e.parentElement);
    const edge = e.matches('.swatch, .dot') ? style.backgroundColor : style.borderTopColor;
    if (e.getClientRects().length && ratio(over(rgba(edge), at), at) < 3) found.edges.push(e.className || e.id);
  }
  for (const e of document.querySelectorAll('body *')) {
    const b = e.getBoundingClientRect();
    if (!b.width || e.closest('.hidden, .skip, svg') || e.parentElement.closest('.scroll')) continue;
    if (b.right > innerWidth + 1 || b.left < -1) found.wide.push(e.tagName + '.' + e.className);
  }
  for (const e of document.querySelectorAll('button, input, select, nav a, summary')) {
    const b = e.getBoundingClientRect();
    if (b.width && (b.width < 24 || b.height < 20)) found.small.push(e.outerHTML.slice(0, 60));
  }
  return found;
})()
