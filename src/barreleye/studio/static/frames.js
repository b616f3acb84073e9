/** What the server sends of a look (`studio/frames.py`): a header of JSON, then arrays of float32. */

/**
 * @param {ArrayBuffer} buffer
 * @returns {import("./source.js").Glance} its arrays are views of the buffer
 */
export function decodeFrame(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const { arrays: listed, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const arrays = {};
  for (const { name, shape, offset } of listed) {
    const length = shape.reduce((a, b) => a * b, 1);
    arrays[name] = { shape, data: new Float32Array(buffer, 4 + size + 4 * offset, length) };
  }
  return { header, arrays };
}
