package apply_test

import (
	"fmt"

	"github.com/dr-syncer/dr-syncer/api/v1alpha1"
	"github.com/dr-syncer/dr-syncer/apply"
)

func ExampleValidate() {
	for _, err := range apply.Validate(v1alpha1.ReplicationSpec{
		Source:           v1alpha1.Source{Site: "prod-nyc"},
		Kinds:            []string{"secrets", "deployments"},
		NamespaceMapping: &v1alpha1.NamespaceMapping{Names: map[string]string{"shop": "store", "bank": "store"}},
	}) {
		fmt.Println(err)
	}
	// Output:
	// spec.namespaceMapping.names: "bank" and "shop" are both mapped to "store": give each its own namespace
	// spec.kinds: kind "deployments" is not in the core group: write apps/deployments
}
