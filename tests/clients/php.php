<?php
// What the PHP client makes of the vectors, as JSON.
declare(strict_types=1);
error_reporting(E_ALL);
set_error_handler(static fn (int $level, string $says) => throw new ErrorException($says));

require "$argv[2]/Sendimage.php";
$vectors = json_decode(file_get_contents($argv[1]), true, flags: JSON_THROW_ON_ERROR);
$images = new Sendimage(
    $vectors['key'],
    $vectors['public_url'],
    $vectors['prefix'],
    $vectors['presets'],
    $vectors['preset_sets'],
);
$options = static fn (array $row): array => array_intersect_key($row, array_flip(['expires', 'download', 'filename']));
$refuses = static function (array $row) use ($images, $options): bool|string {
    try {
        return $images->url($row['ref'], $row['spec'], ...$options($row));
    } catch (InvalidArgumentException) {
        return true;
    }
};
echo json_encode([
    'urls' => array_map(fn ($row) => $images->url($row['ref'], $row['spec'], ...$options($row)), $vectors['urls']),
    'sets' => array_map(fn ($row) => $images->urls($row['ref'], $row['preset_set'], ...$options($row)), $vectors['sets']),
    'expiries' => array_map(
        fn ($row) => Sendimage::expiry($row['expires_in'], $row['window'], $row['now']),
        $vectors['expiries'],
    ),
    'refused' => array_map($refuses, $vectors['refused']),
    'window' => $images->url(42, 'width-1', expiresIn: 60),
    'half' => $refuses(['ref' => "media/\xff.jpg", 'spec' => 'width-1']),
], JSON_THROW_ON_ERROR);
