package v1alpha1

import "maps"

// DeepCopyInto copies the mapping; the generator does not know maps of aliases.
func (in *NamespaceMapping) DeepCopyInto(out *NamespaceMapping) {
	*out = *in
	out.Names = maps.Clone(in.Names)
}

// DeepCopyInto copies the mapping.
func (in *Mapping) DeepCopyInto(out *Mapping) {
	*out = *in
	out.StorageClasses, out.AccessModes = maps.Clone(in.StorageClasses), maps.Clone(in.AccessModes)
	out.IngressClasses, out.Hosts, out.Registries = maps.Clone(in.IngressClasses), maps.Clone(in.Hosts), maps.Clone(in.Registries)
}

// DeepCopy copies the mapping.
func (in *Mapping) DeepCopy() *Mapping {
	if in == nil {
		return nil
	}
	out := new(Mapping)
	in.DeepCopyInto(out)
	return out
}

// DeepCopyInto copies the settings.
func (in *Standby) DeepCopyInto(out *Standby) {
	*out = *in
	out.Hosts = maps.Clone(in.Hosts)
	if in.Enabled != nil {
		enabled := *in.Enabled
		out.Enabled = &enabled
	}
}

// DeepCopy copies the settings.
func (in *Standby) DeepCopy() *Standby {
	if in == nil {
		return nil
	}
	out := new(Standby)
	in.DeepCopyInto(out)
	return out
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
