// The whole original with its focal point, to drag, to move by keys, or to type.

const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const clamp = (value, most) => Math.min(Math.max(Math.round(value), 0), most);

export class Focus {
  constructor($, changed) {
    this.at = name => $(name);
    this.inputs = { x: $("p-x"), y: $("p-y"), width: $("p-width"), height: $("p-height") };
    this.changed = changed;
    this.size = [1, 1];
    this.focal = null;
    for (const input of Object.values(this.inputs)) input.addEventListener("input", () => this.typed());
    const stage = $("stage"), point = $("point");
    stage.addEventListener("pointerdown", event => {
      event.preventDefault();
      stage.setPointerCapture(event.pointerId);
      point.focus({ preventScroll: true });
      this.drag(event);
    });
    stage.addEventListener("pointermove", event => { if (stage.hasPointerCapture(event.pointerId)) this.drag(event); });
    point.addEventListener("keydown", event => {
      const step = KEYS[event.key];
      if (!step) return;
      event.preventDefault();
      const by = event.shiftKey ? 0.05 : 0.01;
      this.move(this.middle().x + step[0] * by * this.size[0], this.middle().y + step[1] * by * this.size[1]);
    });
    $("whole").addEventListener("load", () => this.draw());
    $("whole").addEventListener("dragstart", event => event.preventDefault());
    new ResizeObserver(() => this.draw()).observe(stage);
  }

  middle() {
    return this.focal ?? { x: Math.round(this.size[0] / 2), y: Math.round(this.size[1] / 2), width: 0, height: 0 };
  }

  show(size, focal, crop) {
    Object.assign(this, { size, focal, crop });
    const { x, y, width, height } = this.middle();
    const values = { x, y, width, height };
    for (const [name, input] of Object.entries(this.inputs)) {
      input.max = name === "x" || name === "width" ? size[0] : size[1];
      if (document.activeElement !== input) input.value = Math.round(values[name]);
    }
    this.draw();
  }

  draw() {
    const stage = this.at("whole").getBoundingClientRect();
    const scale = [stage.width / this.size[0], stage.height / this.size[1]];
    const place = (node, left, top, width, height) => {
      node.style.left = `${left * scale[0]}px`;
      node.style.top = `${top * scale[1]}px`;
      if (width !== undefined) { node.style.width = `${width * scale[0]}px`; node.style.height = `${height * scale[1]}px`; }
    };
    const { x, y, width, height } = this.middle();
    place(this.at("point"), x, y);
    this.at("box").hidden = !(width > 0 && height > 0);
    place(this.at("box"), x - width / 2, y - height / 2, width, height);
    this.at("crop").hidden = !this.crop;
    if (this.crop) place(this.at("crop"), this.crop.left, this.crop.top, this.crop.width, this.crop.height);
  }

  drag(event) {
    const stage = this.at("whole").getBoundingClientRect();
    this.move((event.clientX - stage.left) / stage.width * this.size[0], (event.clientY - stage.top) / stage.height * this.size[1]);
  }

  move(x, y) {
    const { width, height } = this.middle();
    this.set({ x: clamp(x, this.size[0]), y: clamp(y, this.size[1]), width, height });
  }

  typed() {
    const value = name => Number(this.inputs[name].value || 0);
    this.set({ x: clamp(value("x"), this.size[0]), y: clamp(value("y"), this.size[1]),
      width: clamp(value("width"), this.size[0]), height: clamp(value("height"), this.size[1]) });
  }

  set(focal) {
    this.show(this.size, focal, this.crop);
    this.changed(focal);
  }
}
