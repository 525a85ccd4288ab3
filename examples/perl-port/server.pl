#!/usr/bin/perl
# Perl with nothing but its own library: listens on $PORT, a child per connection.
use strict;
use warnings;
use IO::Socket::INET;

$SIG{CHLD} = 'IGNORE';
my $server = IO::Socket::INET->new(LocalPort => $ENV{PORT} || 8080, Listen => 128, ReuseAddr => 1, Proto => 'tcp')
    or die "listen: $!";
while (1) {
    my $caller = $server->accept or next;
    my $pid = fork;
    die "fork: $!" unless defined $pid;
    if ($pid) { close $caller; next }
    my $request = <$caller> // exit 0;
    while (my $header = <$caller>) { last if $header =~ /^\r?\n$/ }
    my ($path) = $request =~ m{^\S+ (\S+)};
    my $body = "hello from Perl: $path\n";
    print {$caller} "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ", length $body,
        "\r\nConnection: close\r\n\r\n", $body;
    exit 0;
}
