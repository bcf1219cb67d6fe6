// Package network is a VPC in user space: it joins machines, the metadata
// service and the host without privileges, bridges or taps.
//
// A machine's network device is the unix socket that QEMU listens on
// (-netdev stream,server=on). This side dials it and redials it for as long as
// the port is attached, so a new daemon gets a running machine's network back
// by attaching the same port again.
//
// Frames are switched by address, not by learning: the addresses of all ports
// are known, so an ARP question is answered from the table, a frame is
// delivered by its IPv4 destination, and nothing is ever flooded. That is how
// a VPC behaves: no machine sees another's traffic, broadcast and multicast
// don't exist, and a machine in one subnet reaches one in another without a
// router in between. A slow or paused machine loses its own frames and never
// holds up anybody else's.
//
// What is addressed to the VPC itself (gateways, DNS, metadata) or to the
// world outside goes to a gVisor TCP/IP stack, whose peers on this side are
// ordinary Go connections: the metadata listener, the DNS server, the host's
// forwards and, when Config.Egress is set, sockets to the outside.
package network
