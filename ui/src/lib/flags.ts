/** Envoy's response flags that have an explanation in the language files under `flags.<code>`. */
export const knownFlags = [
  'UH', 'UF', 'UO', 'NR', 'URX', 'NC', 'DT', 'UPE', 'UMSDR', 'OM', 'DPE', 'DC', 'LH', 'UT', 'LR', 'UR', 'UC', 'DI', 'FI', 'RL', 'UAEX', 'RLSE', 'SI', 'IH', 'DO', 'NFCF', 'RFCF',
] as const;
export type KnownFlag = (typeof knownFlags)[number];
export const isKnownFlag = (flag: string): flag is KnownFlag => (knownFlags as readonly string[]).includes(flag);
