/** A matrix on a canvas: one number a pixel, made larger by the style sheet. */

import { pixelsOf } from "./colors.js";

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} data row after row
 * @param {{signed?: boolean, most?: number, hidden?: (row: number, column: number) => boolean}} how
 */
export function drawMatrix(canvas, data, rows, columns, { signed = false, most = 0, hidden = () => false } = {}) {
  if (canvas.width !== columns) canvas.width = columns;
  if (canvas.height !== rows) canvas.height = rows;
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  const largest = most || data.reduce((a, b) => (Number.isFinite(b) ? Math.max(a, Math.abs(b)) : a), 1e-9);
  const table = pixelsOf(signed);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, i++) {
      if (hidden(row, column)) continue; // left clear
      const share = signed ? (data[i] / largest + 1) / 2 : data[i] / largest;
      pixels[i] = table[Math.max(0, Math.min(255, Math.round(share * 255) || 0))];
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The row and the column under the pointer; null outside. */
export function cellAt(canvas, event) {
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const row = Math.floor(((event.clientY - top) / height) * canvas.height);
  const column = Math.floor(((event.clientX - left) / width) * canvas.width);
  const inside = row >= 0 && row < canvas.height && column >= 0 && column < canvas.width;
  return inside ? { row, column } : null;
}
