package state

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// InstanceAddresses is the part of an Instance's record that tells which
// addresses it has.
type InstanceAddresses struct {
	Scope     Scope  `json:"-"`
	State     string `json:"state"`
	PrivateIP string `json:"privateIP"`
	PublicIP  string `json:"publicIP"`
}

// AllInstanceAddresses reads the addresses of every scope's instances. It is
// several times quicker than reading their records whole, which every launch
// would otherwise wait for: a free address is one that no instance has.
func AllInstanceAddresses(tx *Tx) ([]InstanceAddresses, error) {
	var all []InstanceAddresses
	kind := (*Instance)(nil)
	err := eachScope(tx, func(s Scope) error {
		prefix := key(s, kind.Kind(), "")
		c := tx.records.Cursor()
		for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			data, err := document(v, kind)
			if err != nil {
				return fmt.Errorf("read %s: %w", k, err)
			}
			a := InstanceAddresses{Scope: s}
			if err := json.Unmarshal(data, &a); err != nil {
				return fmt.Errorf("read %s: %w", k, err)
			}
			all = append(all, a)
		}
		return nil
	})
	return all, err
}
