/** The weights as `export/html.py` packs them. */

/**
 * The weights out of the bytes that `export/html.py` packs: first all that is float32 (of a matrix its scales, one for
 * each row), then the matrices in int8; both in the order of `shapes`.
 * @param {{[name: string]: {shape: number[], int8: boolean}}} shapes
 * @param {ArrayBuffer} buffer
 * @returns {import("./engine.js").Weights}
 */
export function unpack(shapes, buffer) {
  const weights = {};
  let at = 0;
  for (const [name, { shape, int8 }] of Object.entries(shapes)) {
    const numbers = new Float32Array(buffer, at, int8 ? shape[0] : shape.reduce((a, b) => a * b));
    weights[name] = int8 ? { rows: shape[0], columns: shape[1], int8: null, scales: numbers } : numbers;
    at += numbers.byteLength;
  }
  for (const matrix of Object.values(weights).filter((weight) => "int8" in weight)) {
    matrix.int8 = new Int8Array(buffer, at, matrix.rows * matrix.columns);
    at += matrix.int8.length;
  }
  return weights;
}
