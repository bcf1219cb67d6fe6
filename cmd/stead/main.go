// Command stead keeps servers whose disks outlive their machines, on any EC2
// endpoint and on a cloud of its own.
package main

import (
	"os"

	"github.com/steadcloud/stead/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args...)) }
