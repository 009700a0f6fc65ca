// Sums a cart that the caller holds: /cart/lamp,chair
const PRICES = { lamp: 25, chair: 80, table: 240 };

export async function handler(event) {
  const names = event.rawPath.split("/").pop().split(",").filter(Boolean);
  const unknown = names.filter((name) => !(name in PRICES));
  if (unknown.length > 0) return { statusCode: 404, body: JSON.stringify({ unknown }) };
  return { names, total: names.reduce((sum, name) => sum + PRICES[name], 0) };
}
