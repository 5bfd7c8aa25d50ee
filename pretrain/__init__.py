"""The ImageNet training of the classifiers: config, recipe, data, engine. Uses randwire_det."""
