/** How products were best computed on this device, kept from visit to visit, so that only the first measures it. */

import type { Products } from './types.js';

const KEY = 'web-lora.products';

export function rememberedProducts(): Products | undefined {
  try {
    const products: unknown = JSON.parse(localStorage.getItem(KEY) ?? 'null');
    return isProducts(products) ? products : undefined;
  } catch {
    // No storage in this context, or not what was put there.
    return undefined;
  }
}

export function rememberProducts(products: Products): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(products));
  } catch {
    // Measured again next time.
  }
}

function isProducts(value: unknown): value is Products {
  if (typeof value !== 'object' || value === null) return false;
  const { variant, device, reason } = value as Partial<Record<keyof Products, unknown>>;
  return ['direct', 'tiled', 'tiled-f16'].includes(String(variant)) && typeof device === 'string' && typeof reason === 'string';
}
