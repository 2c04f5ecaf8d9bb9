/** Numbers as people read them. */

const count = new Intl.NumberFormat('en');
const moment = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

/** 12345 as `12,345`. */
export function formatCount(value: number): string {
  return count.format(value);
}

/** 134515008 as `134.5M`. */
export function formatShort(value: number): string {
  return short.format(value);
}

/** Bytes in steps of a thousand, as download sizes are given. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** Seconds as `45 s`, `3 min 20 s` or `2 h 5 min`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Seconds as `0.45 ms` or `1,234 ms`. */
export function formatMilliseconds(seconds: number): string {
  const milliseconds = 1000 * seconds;
  return `${milliseconds < 10 ? milliseconds.toFixed(2) : formatCount(Math.round(milliseconds))} ms`;
}

/** A loss or a norm. */
export function formatLoss(loss: number): string {
  return loss.toFixed(3);
}

/** Tokens, or billions of something, a second. */
export function formatSpeed(tokensPerSecond: number): string {
  return tokensPerSecond < 10 ? tokensPerSecond.toFixed(1) : formatCount(Math.round(tokensPerSecond));
}

/** `1 example`, `2 examples`. */
export function formatPlural(value: number, noun: string): string {
  return `${formatCount(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/** A moment in the past, as `26 Nov, 14:05`. */
export function formatWhen(milliseconds: number): string {
  return moment.format(milliseconds);
}
