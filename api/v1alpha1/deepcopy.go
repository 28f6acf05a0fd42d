package v1alpha1

import "maps"

// DeepCopyInto copies the mapping; the generator does not know maps of aliases.
func (in *NamespaceMapping) DeepCopyInto(out *NamespaceMapping) {
	*out = *in
	out.Names = maps.Clone(in.Names)
}

// DeepCopy copies the mapping.
func (in *NamespaceMapping) DeepCopy() *NamespaceMapping {
	if in == nil {
		return nil
	}
	out := new(NamespaceMapping)
	in.DeepCopyInto(out)
	return out
}
