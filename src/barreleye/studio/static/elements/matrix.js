/** A matrix on a canvas: one number a pixel, made larger by the style sheet. */

import { diverging, sequential } from "./colors.js";

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} data row after row
 * @param {{signed?: boolean, most?: number, hidden?: (row: number, column: number) => boolean}} how
 */
export function drawMatrix(canvas, data, rows, columns, { signed = false, most = 0, hidden = () => false } = {}) {
  canvas.width = columns;
  canvas.height = rows;
  const pixels = new ImageData(columns, rows);
  const largest = most || data.reduce((a, b) => (Number.isFinite(b) ? Math.max(a, Math.abs(b)) : a), 1e-9);
  const table = Array.from({ length: 256 }, (_, i) => (signed ? diverging((i - 127.5) / 127.5) : sequential(i / 255)));
  for (let i = 0; i < rows * columns; i++) {
    const [row, column] = [Math.floor(i / columns), i % columns];
    if (hidden(row, column)) continue; // left clear
    const share = signed ? (data[i] / largest + 1) / 2 : data[i] / largest;
    const color = table[Math.max(0, Math.min(255, Math.round(share * 255)))];
    pixels.data.set([...color, 255], 4 * i);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** The row and the column under the pointer; null outside. */
export function cellAt(canvas, event) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const row = Math.floor(((event.clientY - top) / height) * canvas.height);
  const column = Math.floor(((event.clientX - left) / width) * canvas.width);
  const inside = row >= 0 && row < canvas.height && column >= 0 && column < canvas.width;
  return inside ? { row, column } : null;
}
