import { expect, it } from 'vitest';
import { bytes, compact, ms, relative, share, us } from './format';

it.each([
  [compact(0.1234), '0.12'], [compact(12.34), '12.3'], [compact(1234), '1,234'], [compact(45_678), '45.7k'], [compact(null), '–'], [compact(Number.NaN), '–'],
  [share(0), '0%'], [share(0.00001), '<0.01%'], [share(0.0123), '1.2%'], [share(0.5), '50%'], [share(null), '–'],
  [ms(0.25), '0.25 ms'], [ms(12.4), '12 ms'], [ms(1500), '1.5 s'], [ms(180_000), '3 min'], [us(500), '500 µs'], [us(2500), '2.5 ms'],
  [bytes(512), '512 B'], [bytes(1536), '1.5 KiB'], [bytes(50 * 1024 * 1024), '50 MiB'],
])('%j', (got, want) => expect(got).toBe(want));

it('says how long ago', () => {
  const now = new Date('2026-01-01T12:00:00Z');
  expect(relative(new Date('2026-01-01T11:57:00Z'), now)).toBe('3 min. ago');
  expect(relative(new Date('2026-01-03T13:00:00Z'), now)).toBe('in 2 days');
  expect(relative(new Date('nonsense'), now)).toBe('–');
});
