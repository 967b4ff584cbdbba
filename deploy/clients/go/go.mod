module sendimage

go 1.19
