// Package v1alpha1 holds the custom resources of group dr-syncer.io: types and
// their validation rules, no behavior. The CRDs under charts/ and the deepcopy
// functions are generated from it.
//
// +kubebuilder:object:generate=true
// +groupName=dr-syncer.io
package v1alpha1
