export function makeWorld(scene: string): { graph: (query: Record<string, unknown>, objects: Map<string, unknown>) => unknown };
