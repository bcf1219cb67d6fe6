package cloud

import "testing"

func TestSlotOf(t *testing.T) {
	for device, want := range map[string]int{
		"/dev/sda1": 1, "/dev/sdf": 6, "sdf": 6, "/dev/sdf1": 6, "/dev/xvdf": 6, "/dev/xvdp": 16,
		"/dev/sdq": 0, "/dev/xvdba": 0, "/dev/vdb": 0, "/dev/hdb": 0,
	} {
		if got := slotOf(device); got != want {
			t.Errorf("slot of %s: %d, want %d", device, got, want)
		}
	}
}
