# The library of DR-Syncer: import "dr" as dr; then dr::images({"ghcr.io": "mirror.example"}).
#
# Every function takes an object and returns it. What an object does not have
# is left alone, so that a function can be called on any kind.

# ---------------------------------------------------------------- places

# The pod specs within an object, as paths.
def pod_specs:
  ((select(.kind == "Pod") | .spec),
   .template.spec?,
   .spec.template.spec?,
   .spec.jobTemplate.spec.template.spec?,
   .spec.jobTargetRef.template.spec?)
  | objects;

# All containers of all pod specs.
def containers:
  pod_specs | (.containers[]?, .initContainers[]?, .ephemeralContainers[]?) | objects;

# The host names that an object asks to be reached by.
def host_names:
  (if .kind == "Ingress" then .spec.rules[]?.host, .spec.tls[]?.hosts[]?
   elif .kind == "Route" then .spec.host
   elif .kind == "Gateway" then .spec.listeners[]?.hostname, .spec.servers[]?.hosts[]?
   elif .kind == "VirtualService" then .spec.hosts[]?
   elif .kind == "Certificate" then .spec.commonName, .spec.dnsNames[]?
   elif .kind == "DNSEndpoint" then .spec.endpoints[]?.dnsName
   else .spec.hostnames[]? end)?
  | strings;

# ---------------------------------------------------------------- maps of names

# A name by a map, "*" in the map for all others.
def _named($map):
  . as $name
  | if $map | has($name) then $map[$name]
    elif $map | has("*") then $map["*"]
    else $name end;

# The longest key of a map that satisfies a condition.
def _longest($map; condition):
  [$map | keys[] | select(condition)] | max_by(length);

# Storage classes of claims, volumes and claim templates:
# dr::storage_classes({"gp3": "fast", "*": "standard"}).
def storage_classes($map):
  (((.spec.storageClassName, .spec.volumeClaimTemplates[]?.spec.storageClassName)?
   , (pod_specs | .volumes[]?.ephemeral.volumeClaimTemplate.spec.storageClassName?))
   | strings) |= _named($map);

# Access modes of claims, volumes and claim templates.
def access_modes($map):
  ((.spec.accessModes[]?, .spec.volumeClaimTemplates[]?.spec.accessModes[]?)? | strings) |= _named($map);

# Ingress classes, those of the old annotation too, and classes of Gateways.
def ingress_classes($map):
  ((.spec.ingressClassName, .spec.gatewayClassName)? | strings) |= _named($map)
  | (.metadata.annotations["kubernetes.io/ingress.class"] | strings) |= _named($map);

# The domain of a map that a host belongs to, null without one. Istio's hosts
# may have a namespace and a slash before them.
def _domain($map):
  (split("/") | .[-1]) as $host | _longest($map; . as $domain | $host == $domain or ($host | endswith("." + $domain)));

# A host by a map of domains: "example.com" stands for itself and all below it.
def host($map):
  . as $host
  | _domain($map) as $domain
  | if $domain == null then $host
    else $host[:($host | length) - ($domain | length)] + $map[$domain] end;

# Host names everywhere: dr::hosts({"example.com": "dr.example.com"}).
def hosts($map):
  host_names |= host($map)
  | (.metadata.annotations["external-dns.alpha.kubernetes.io/hostname"] | strings)
    |= ([split(",")[] | ltrimstr(" ") | host($map)] | join(","));

# An image by a map of registries or of longer beginnings. Short names stand for
# docker.io, as for every runtime.
def image($map):
  . as $image
  | split("/") as $parts
  | (if ($parts | length) == 1 then "docker.io/library/" + $image
     elif $parts[0] | test("[.:]") or . == "localhost" then $image
     else "docker.io/" + $image end) as $full
  | _longest($map; . as $from | $full == $from or ($full | startswith($from + "/") or startswith($from + ":") or startswith($from + "@"))) as $from
  | if $from == null then $image else $map[$from] + $full[($from | length):] end;

# Images of all containers: dr::images({"registry.prod.example.com": "registry.dr.example.com"}).
def images($map):
  (containers | .image | strings) |= image($map);

# ---------------------------------------------------------------- values

# Environment variables by name, where they have a value of their own.
def env_values($map):
  (containers | .env[]? | select(.name as $name | $map | has($name)) | select(has("value")) | .)
    |= (.value = $map[.name]);

# Texts within a text: every key of the map becomes its value.
def text($map):
  reduce ($map | to_entries[]) as $e (.; split($e.key) | join($e.value));

# The same in the values of environment variables, and in arguments and commands.
def env_text($map):
  (containers | (.env[]?.value, .args[]?, .command[]?) | strings) |= text($map);

# The same in the data of ConfigMaps.
def data_text($map):
  (select(.kind == "ConfigMap") | .data[]? | strings) |= text($map);

def _members($map):
  reduce ($map | to_entries[]) as $e (.;
    if $e.value == null then (if . == null then . else del(.[$e.key]) end) else .[$e.key] = $e.value end);

# Labels to set; null takes one away.
def labels($map): .metadata.labels |= _members($map) | if .metadata.labels == null then del(.metadata.labels) else . end;

# Annotations to set; null takes one away.
def annotations($map): .metadata.annotations |= _members($map) | if .metadata.annotations == null then del(.metadata.annotations) else . end;

# Node selectors of pods to set; null takes one away.
def node_selectors($map):
  pod_specs |= (.nodeSelector |= _members($map) | if .nodeSelector == null or .nodeSelector == {} then del(.nodeSelector) else . end);

# The number of replicas, where there is one.
def replicas($n):
  if .spec | type == "object" and has("replicas") then .spec.replicas = $n else . end;

# Jobs and CronJobs, and all that knows the field: do not run.
def suspend: .spec.suspend = true;

# Node ports of Services: the destination gives its own.
def drop_node_ports:
  if .kind == "Service" then del(.spec.ports[]?.nodePort, .spec.healthCheckNodePort) else . end;

# ---------------------------------------------------------------- standby
#
# sleep changes what would have effects while the other side is alive. Each
# change is noted with the former value in an annotation, so that wake restores
# the object exactly. While an object is put to sleep, .o is the object and .n
# are the notes:
#
#   {p: path, v: value}        this was the value there
#   {p: path, n: k}            the first k elements of the path led to nothing
#   {p: path, n: k, v: null}   ... or to null

def _original: "dr-syncer.io/original";
def _original_replicas: "dr-syncer.io/original-replicas";
def _asleep: "dr-syncer.io/asleep";
def _nobody: "dr-syncer-asleep";

def _has($path):
  getpath($path[:-1]) | if type == "object" then has($path[-1]) elif type == "array" then $path[-1] < length else false end;

def _note($path):
  .o as $o
  | first(range(1; ($path | length) + 1) | select(. as $n | $o | getpath($path[:$n]) == null)) // null
  | . as $n
  | if $n == null then {p: $path, v: ($o | getpath($path))}
    elif $o | _has($path[:$n]) then {p: $path, n: $n, v: null}
    else {p: $path, n: $n} end;

def _set($path; $value):
  if (.o | getpath($path)) == $value and $value != null then .
  else .n += [_note($path)] | .o |= setpath($path; $value) end;

def _remove($path):
  if .o | _has($path) then .n += [{p: $path, v: (.o | getpath($path))}] | .o |= delpaths([$path]) else . end;

def _annotate($name; $value): _set(["metadata", "annotations", $name]; $value);

# Takes away the annotations whose names satisfy a condition.
def _remove_annotations(condition):
  reduce (.o.metadata.annotations // {} | keys[] | select(condition)) as $name (.; _remove(["metadata", "annotations", $name]));

def _stays_awake: .o.metadata.labels["dr-syncer.io/scale-override"] == "true";

# external-dns leaves alone what names another controller.
def _no_dns: _annotate("external-dns.alpha.kubernetes.io/controller"; _nobody);

def _no_certificates:
  _remove_annotations(startswith("cert-manager.io/") or startswith("acme.cert-manager.io/") or . == "kubernetes.io/tls-acme");

def _rewrite_hosts($map):
  reduce (.o | path(host_names)) as $path (.; _set($path; .o | getpath($path) | host($map)));

# Services have no address outside. Headless ones stay headless.
def _services($parts):
  if .o.spec.type != "LoadBalancer" or $parts.services == "Keep" then .
  else
    _set(["spec", "type"]; "ClusterIP")
    | reduce ("allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges",
              "externalTrafficPolicy", "healthCheckNodePort") as $field (.; _remove(["spec", $field]))
    | reduce range(.o.spec.ports // [] | length) as $i (.; _remove(["spec", "ports", $i, "nodePort"]))
  end
  | if $parts.externalDNS != "Keep" and any(.o.metadata.annotations // {} | keys[]; startswith("external-dns.alpha.kubernetes.io/"))
    then _no_dns else . end;

# Entries are Ingresses, Gateways, and the routes behind them. hold is what
# keeps their controllers off. One that has a host without a new name is held
# back: it would answer for production.
def _entry($parts; $asked; hold):
  (if $asked == "Rewrite" and any(.o | host_names; _domain($parts.hosts // {}) == null) then "Sleep" else $asked end) as $how
  | (if $how == "Keep" then .
     elif $how == "Rewrite" then _rewrite_hosts($parts.hosts // {})
     else hold end)
  | if $parts.externalDNS == "Keep" or $how == "Rewrite" then . else _no_dns end
  | if $parts.certificates == "Keep" then . else _no_certificates end;

# Ingresses get a class that nobody serves, Routes a host that nobody asks for.
def _ingresses($parts; $kind):
  _entry($parts; $parts.ingresses;
    if $kind == "Route" then _set(["spec", "host"]; (.o.spec.host // "route") + "." + _nobody + ".invalid")
    else _set(["spec", "ingressClassName"]; _nobody) | _remove(["metadata", "annotations", "kubernetes.io/ingress.class"]) end);

# Gateways get a class, or a selector, that nobody serves; their routes follow them.
def _gateways($parts; $group; $kind):
  _entry($parts; $parts.gateways;
    if $kind != "Gateway" then .
    elif $group == "networking.istio.io" then _set(["spec", "selector", _asleep]; "true")
    else _set(["spec", "gatewayClassName"]; _nobody) end);

# Nobody publishes the names.
def _external_dns: _no_dns;

# The copied Secrets are used; the issuer that would order others does not exist.
def _certificates: _set(["spec", "issuerRef", "name"]; _nobody);

# Webhooks that are served from the cluster do not block writes.
def _webhooks:
  reduce (.o.webhooks // [] | to_entries[] | select(.value.clientConfig.service != null) | .key) as $i (.;
    _set(["webhooks", $i, "failurePolicy"]; "Ignore"));

# Autoscalers do nothing. One of autoscaling/v1 cannot be paused; it does nothing
# while its target has no replicas.
def _autoscalers($kind):
  if $kind == "ScaledObject" then _annotate("autoscaling.keda.sh/paused-replicas"; "0")
  elif $kind == "ScaledJob" then _annotate("autoscaling.keda.sh/paused"; "true")
  elif .o.apiVersion == "autoscaling/v1" then .
  else _set(["spec", "behavior", "scaleUp", "selectPolicy"]; "Disabled") | _set(["spec", "behavior", "scaleDown", "selectPolicy"]; "Disabled") end;

# Workloads have no replicas, or as many as the label says.
def _workloads:
  (.o.metadata.labels["dr-syncer.io/scale-override"] // "0" | if test("^[0-9]{1,9}$") then tonumber else 0 end) as $n
  | .o.spec.replicas as $was
  | if $was == $n then . else
      _set(["spec", "replicas"]; $n)
      | if $was == null then . else _annotate(_original_replicas; $was | tostring) end
    end;

# Virtual machines are halted; sets and pools of them have no replicas.
def _virtual_machines($kind):
  if $kind != "VirtualMachine" then _workloads
  elif .o.spec | has("running") then _set(["spec", "running"]; false) else _set(["spec", "runStrategy"]; "Halted") end;

# What makes an operator start nothing, as each has it.
def _operators($group; $kind):
  if $group == "postgresql.cnpg.io" then _annotate("cnpg.io/hibernation"; "on")
  elif $group == "acid.zalan.do" then _set(["spec", "numberOfInstances"]; 0)
  elif $group == "postgres-operator.crunchydata.com" then _set(["spec", "shutdown"]; true)
  elif $group | endswith(".percona.com") then _set(["spec", "pause"]; true)
  elif $group == "kafka.strimzi.io" then _annotate("strimzi.io/pause-reconciliation"; "true")
  elif $group | endswith(".elastic.co") then _annotate("eck.k8s.elastic.co/managed"; "false")
  elif $group == "rabbitmq.com" then _set(["metadata", "labels", "rabbitmq.com/pauseReconciliation"]; "true")
  elif $group == "flink.apache.org" and .o.spec.job != null then _set(["spec", "job", "state"]; "suspended")
  else . end;

# Budgets do not keep the few pods that are awake from leaving a node.
def _disruption_budgets:
  _remove(["spec", "minAvailable"]) | _set(["spec", "maxUnavailable"]; "100%");

# Namespaces do not ask for sidecars.
def _injection:
  reduce ("istio-injection", "istio.io/rev", "istio.io/dataplane-mode", "kuma.io/sidecar-injection") as $name (.;
    _remove(["metadata", "labels", $name]))
  | reduce ("linkerd.io/inject", "kuma.io/sidecar-injection", "consul.hashicorp.com/connect-inject") as $name (.;
    _remove(["metadata", "annotations", $name]));

# Daemons run on no node.
def _daemon_sets: _set(["spec", "template", "spec", "nodeSelector", _asleep]; "true");

# Pods on their own wait at a gate.
def _pods: _set(["spec", "schedulingGates"]; (.o.spec.schedulingGates // []) + [{name: _asleep}]);

# Jobs, and what would make some, are suspended.
def _jobs: _set(["spec", "suspend"]; true);
def _cron_jobs: _jobs;

def _kinds: {
  "apps/Deployment": "workloads", "apps/StatefulSet": "workloads", "apps/ReplicaSet": "workloads",
  "/ReplicationController": "workloads", "argoproj.io/Rollout": "workloads",
  "batch/CronJob": "cronJobs", "batch/Job": "jobs", "apps/DaemonSet": "daemonSets", "/Pod": "pods",
  "autoscaling/HorizontalPodAutoscaler": "autoscalers", "keda.sh/ScaledObject": "autoscalers", "keda.sh/ScaledJob": "autoscalers",
  "/Service": "services", "networking.k8s.io/Ingress": "ingresses", "route.openshift.io/Route": "ingresses",
  "gateway.networking.k8s.io/Gateway": "gateways", "gateway.networking.k8s.io/HTTPRoute": "gateways",
  "gateway.networking.k8s.io/GRPCRoute": "gateways", "gateway.networking.k8s.io/TLSRoute": "gateways",
  "networking.istio.io/Gateway": "gateways", "networking.istio.io/VirtualService": "gateways",
  "cert-manager.io/Certificate": "certificates", "externaldns.k8s.io/DNSEndpoint": "externalDNS",
  "kubevirt.io/VirtualMachine": "virtualMachines", "kubevirt.io/VirtualMachineInstanceReplicaSet": "virtualMachines",
  "pool.kubevirt.io/VirtualMachinePool": "virtualMachines",
  "postgresql.cnpg.io/Cluster": "operators", "acid.zalan.do/postgresql": "operators",
  "postgres-operator.crunchydata.com/PostgresCluster": "operators", "pgv2.percona.com/PerconaPGCluster": "operators",
  "pxc.percona.com/PerconaXtraDBCluster": "operators", "psmdb.percona.com/PerconaServerMongoDB": "operators",
  "kafka.strimzi.io/Kafka": "operators", "kafka.strimzi.io/KafkaConnect": "operators",
  "kafka.strimzi.io/KafkaMirrorMaker2": "operators", "kafka.strimzi.io/KafkaBridge": "operators",
  "kafka.strimzi.io/KafkaConnector": "operators", "elasticsearch.k8s.elastic.co/Elasticsearch": "operators",
  "kibana.k8s.elastic.co/Kibana": "operators", "rabbitmq.com/RabbitmqCluster": "operators",
  "flink.apache.org/FlinkDeployment": "operators",
  "policy/PodDisruptionBudget": "disruptionBudgets", "/Namespace": "injection",
  "admissionregistration.k8s.io/ValidatingWebhookConfiguration": "webhooks",
  "admissionregistration.k8s.io/MutatingWebhookConfiguration": "webhooks"
};

def _group: split("/") | if length > 1 then .[0] else "" end;

def _sleep($parts):
  (.o.apiVersion | _group) as $group
  | .o.kind as $kind
  | _kinds[$group + "/" + $kind] as $part
  | if $part == null then .
    elif $part == "services" then _services($parts)
    elif $part == "ingresses" then _ingresses($parts; $kind)
    elif $part == "gateways" then _gateways($parts; $group; $kind)
    elif $parts[$part] == "Keep" then .
    elif $part == "externalDNS" then _external_dns
    elif $part == "certificates" then _certificates
    elif $part == "virtualMachines" then _virtual_machines($kind)
    elif $part == "disruptionBudgets" then _disruption_budgets
    elif $part == "injection" then _injection
    elif $part == "webhooks" then _webhooks
    elif $part == "autoscalers" then _autoscalers($kind)
    elif _stays_awake then .
    elif $part == "operators" then _operators($group; $kind)
    elif $part == "workloads" then _workloads
    elif $part == "daemonSets" then _daemon_sets
    elif $part == "pods" then _pods
    elif $part == "cronJobs" then _cron_jobs
    else _jobs
    end;

# Whether an object was put to sleep.
def sleeps: .metadata.annotations // {} | has(_original) or has(_original_replicas);

# Puts an object to sleep. $parts says for each part what to do, "Sleep" or
# "Keep", for ingresses and gateways also "Rewrite", by the map $parts.hosts.
# What sleeps already stays as it is.
def sleep($parts):
  if sleeps then .
  else
    {o: ., n: []}
    | _sleep($parts // {})
    | if .n == [] then .o
      else (.n + [_note(["metadata", "annotations", _original])] | tojson) as $notes
        | .o | .metadata.annotations[_original] = $notes
      end
  end;

def sleep: sleep({});

def _restore($note):
  if $note | has("n") | not then setpath($note.p; $note.v)
  else
    delpaths([$note.p])
    | reduce range(($note.p | length) - 1; $note.n - 1; -1) as $k (.;
        if getpath($note.p[:$k]) == {} then delpaths([$note.p[:$k]]) else . end)
    | if $note | has("v") then setpath($note.p[:$note.n]; getpath($note.p[:$note.n])) else . end
  end;

# The exact reverse of sleep. An object that somebody else scaled down, with no
# more than the annotation of its replicas, wakes up too.
def wake:
  (.metadata.annotations // {}) as $a
  | if $a | has(_original) then reduce ($a[_original] | fromjson | reverse[]) as $note (.; _restore($note))
    elif $a | has(_original_replicas) then
      .spec.replicas = ($a[_original_replicas] | tonumber)
      | del(.metadata.annotations[_original_replicas])
      | if .metadata.annotations == {} then del(.metadata.annotations) else . end
    else . end;
