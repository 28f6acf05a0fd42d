package kube

// Object is a thin object: who it is, and its body as JSON where that is kept.
type Object struct {
	UID       string
	Version   string // metadata.resourceVersion
	Namespace string // empty for cluster-scoped objects
	Name      string
	// APIVersion and Kind are those of the kind, in a metadata-only watch too.
	APIVersion string
	Kind       string
	// Raw is the body, nil where it is not kept. It belongs to whoever got the Object.
	Raw []byte
}
