/** What a new object of each kind starts as. */
import type { Kind } from '../api/types';

interface Seed {
  namespace: string;
  host: string;
  versions: string[];
}

const specs: Record<string, (s: Seed) => string> = {
  Gateway: () => `  selector:
    app: istio-ingressgateway
    istio: ingressgateway
  servers:
    - port:
        number: 80
        name: http
        protocol: HTTP
      hosts:
        - "*"
`,
  VirtualService: ({ host }) => `  hosts:
    - ${host}
  http:
    - route:
        - destination:
            host: ${host}
`,
  DestinationRule: ({ host, versions }) => `  host: ${host}
${versions.length > 0 ? '  subsets:\n' : ''}${versions.map((v) => `    - name: ${v}\n      labels:\n        version: ${v}\n`).join('')}`,
  ServiceEntry: () => `  hosts:
    - api.example.com
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
    - number: 443
      name: tls
      protocol: TLS
`,
  PeerAuthentication: () => `  mtls:
    mode: STRICT
`,
  AuthorizationPolicy: () => `  action: DENY
  rules:
    - from:
        - source:
            namespaces:
              - test
`,
  RequestAuthentication: () => `  jwtRules:
    - issuer: https://issuer.example.com
      jwksUri: https://issuer.example.com/.well-known/jwks.json
`,
  Sidecar: () => `  egress:
    - hosts:
        - ./*
        - istio-system/*
`,
  Telemetry: () => `  accessLogging:
    - providers:
        - name: envoy
`,
};

export function template(kind: Pick<Kind, 'kind' | 'group' | 'version'>, namespace: string, host: string, versions: string[] = ['v1', 'v2']): string {
  const fqdn = host ? (host.includes('.') ? host : `${host}.${namespace}.svc.cluster.local`) : `my-service.${namespace}.svc.cluster.local`;
  const base = host ? (host.split('.')[0] as string) : 'my';
  const name = { VirtualService: `${base}-vs`, Gateway: `${base}-gateway`, DestinationRule: base }[kind.kind] ?? `${base}-${kind.kind.toLowerCase()}`;
  const body = specs[kind.kind]?.({ namespace, host: fqdn, versions }) ?? '  {}\n';
  return `apiVersion: ${kind.group}/${kind.version}\nkind: ${kind.kind}\nmetadata:\n  name: ${name}\n  namespace: ${namespace}\nspec:\n${body}`;
}
